"""Pictures as this library keeps them: 8 bits, composited on white, alpha beside the colour."""

from torch import Tensor


class OnWhite:
    """What has `rgba` (..., 4, S, S) uint8, colour composited on white and alpha, 255 = covered."""

    rgba: Tensor

    @property
    def images(self) -> Tensor:
        """(..., 3, S, S) in [0, 1], on white."""
        return self.rgba[..., :3, :, :].float() / 255

    @property
    def alpha(self) -> Tensor:
        """(..., 1, S, S) in [0, 1]."""
        return self.rgba[..., 3:, :, :].float() / 255
