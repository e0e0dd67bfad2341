"""Algorithm 1 of the paper, the stages before it, and the loop around them."""

from .config import TrainingConfig
from .loop import train

__all__ = ["TrainingConfig", "train"]
