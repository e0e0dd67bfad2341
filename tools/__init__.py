"""What measures the library and is not part of it; run from the repository's root, as `python -m tools.NAME`."""
