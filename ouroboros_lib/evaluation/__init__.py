"""Measuring: metrics, held-out objects, and the raw numbers that every table is made from."""
