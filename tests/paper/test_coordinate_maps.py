"""The right coordinate map and the released one: what each says about one surface point."""

import pytest
import torch

from ouroboros_lib.cameras import evenly_spaced_orbit
from ouroboros_lib.models.feedback import released_coordinate_map


@pytest.mark.parametrize("size", [32, 128])
def test_one_point_has_one_right_colour_and_many_released_ones(size):
    """A point on the axis of rotation, seen at the same pixel and depth by every camera of the orbit."""
    rig = evenly_spaced_orbit(8, 20.0)
    point = torch.tensor([[0.0, 0.1, 0.0]])
    uv, depth = rig.project(point)
    pixel = (uv[0, 0] * size).long()
    maps = depth[..., None, None].expand(8, 1, size, size)
    right = rig.canonical_map(maps)[:, :, pixel[1], pixel[0]]
    released = released_coordinate_map(maps, rig)[:, :, pixel[1], pixel[0]]
    assert (right - right.mean(0)).abs().max() < 2 / size
    assert (released - released.mean(0)).abs().max() > 0.0001 * size
