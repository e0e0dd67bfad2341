"""The paper's scale: SVD as F, LGM as G, the CLIP token, and what the published checkpoint needs."""
