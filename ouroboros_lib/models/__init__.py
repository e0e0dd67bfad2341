"""The networks: F (multi-view diffusion), G (Gaussian reconstruction), the feedback encoders and the autoencoder."""
