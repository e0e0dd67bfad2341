"""Where a lesson computes by itself, so that its mistakes differ in one place, the library gives the same."""

import torch

from ouroboros_lib.cameras import orbit_cameras
from ouroboros_lib.course import lesson_03
from ouroboros_lib.gaussians import Gaussians
from ouroboros_lib.rasterization import rasterize
from ouroboros_lib.rasterization.projection import project

SIZE = 33  # pixels: one of them in the middle
CAMERA = orbit_cameras([30.0], [20.0])


def test_covariances_in_the_picture_are_those_of_the_rasterizer():
    quaternions = torch.tensor([[0.9, 0.1, -0.3, 0.2]])
    one = Gaussians(torch.tensor([[0.1, -0.2, 0.15]]), torch.ones(1), torch.tensor([[0.1, 0.05, 0.02]]), quaternions,
                    torch.ones(1, 3))
    pose, f = CAMERA.world_to_camera()[0], float(CAMERA.intrinsics[0, 0, 0]) * SIZE
    centre = pose[:3, :3] @ one.means[0] + pose[:3, 3]
    found = lesson_03._image_covariance(one.covariances()[0], pose[:3, :3], centre, f)
    p = project(one.map(lambda value: value[None]), CAMERA[None], SIZE)
    conic = torch.stack([p.conic_uu, p.conic_uv, p.conic_uv, p.conic_vv]).view(2, 2)
    torch.testing.assert_close(found, conic.inverse(), rtol=1e-4, atol=1e-4)


def test_a_pixel_is_blended_as_the_rasterizer_blends_it():
    (opacities, colors, depths, background), _ = lesson_03._pixels()
    middle = CAMERA.pixel_directions(SIZE)[0, SIZE // 2, SIZE // 2]
    splats = Gaussians(CAMERA.positions + depths[:, None] * middle, opacities, torch.full((5, 3), 0.1),
                       torch.tensor([1.0, 0, 0, 0]).repeat(5, 1), colors)
    drawn = rasterize(splats, CAMERA, SIZE, background=background, backend="dense")
    order = depths.argsort()
    torch.testing.assert_close(drawn.rgb[0, :, SIZE // 2, SIZE // 2],
                               lesson_03._blend(opacities, colors, depths, background))
    torch.testing.assert_close(drawn.depth[0, 0, SIZE // 2, SIZE // 2],
                               lesson_03._depth(opacities[order], depths[order]))
