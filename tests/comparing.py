"""What many tests draw with and compare by."""

import torch


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def gap(a, b):
    return float((a - b).abs().max())
