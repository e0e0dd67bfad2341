"""What makes Algorithm 1 fast on GPUs and over several processes. The same losses and gradients as the plain one."""
