"""Algorithm 1 again, for GPUs and several processes: the same losses and gradients, tested, in less time and memory."""
