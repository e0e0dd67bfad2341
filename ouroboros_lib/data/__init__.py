"""Where multi-view training and evaluation data come from."""
