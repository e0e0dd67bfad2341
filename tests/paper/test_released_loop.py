"""The released inference at its size, 512 pixels, step by step from the description of what its script does.

F, decoder and G are stand-ins that note what they are given, so that it runs in seconds.
"""

import pytest
import torch
from comparing import seeded
from torch.testing import assert_close

from ouroboros_lib.gaussians import Gaussians
from ouroboros_lib.models.feedback import released_coordinate_map
from ouroboros_lib.noise import c_noise
from ouroboros_lib.paper.released import ReleasedPipeline, released_orbit
from ouroboros_lib.presets import load_preset, random_models
from ouroboros_lib.rasterization import rasterize

SIZE, STEPS = 512, 2


@pytest.fixture
def seen(monkeypatch):
    """A pipeline of 512 pixels, and what its parts are given: x_t, self_cond of F; views, cameras, level of G."""
    preset = load_preset("narrow")
    pipe = ReleasedPipeline(**random_models(preset, seed=1), image_size=SIZE, coordinate_map="released",
                            **preset.pipeline)
    pipe.set_progress_bar_config(disable=True)
    g = seeded()
    splats = Gaussians(0.2 * torch.randn(1, 300, 3, generator=g), torch.full((1, 300), 0.9),
                       torch.full((1, 300, 3), 0.05), torch.randn(1, 300, 4, generator=g),
                       torch.rand(1, 300, 3, generator=g))
    notes = {"F": [], "G": [], "estimates": torch.randn(STEPS, 1, 8, 4, SIZE // 8, SIZE // 8, generator=g),
             "decoded": 3 * torch.rand(STEPS, 1, 8, 3, SIZE, SIZE, generator=g) - 1, "splats": splats}

    def F(x_t, sigma, cond, cameras, self_cond=None):
        notes["F"].append((x_t, self_cond, cameras))
        return notes["estimates"][len(notes["F"]) - 1]

    def G(views, cameras, level):
        notes["G"].append((views, cameras, level))
        return splats

    monkeypatch.setattr(pipe, "estimate", F)
    monkeypatch.setattr(pipe.autoencoder, "decode", lambda latents: notes["decoded"][len(notes["F"]) - 1])
    monkeypatch.setattr(pipe.reconstructor, "forward", G)
    return pipe, notes


@torch.no_grad()
def test_the_loop_at_512_pixels(seen):
    pipe, notes = seen
    result = pipe(torch.rand(1, 3, SIZE, SIZE, generator=seeded(3)), elevation=20.0, num_inference_steps=STEPS,
                  generator=seeded(4))
    sigmas, rig = pipe.scheduler.sigmas(STEPS), released_orbit(0.0).expand(1)
    drawn = rasterize(notes["splats"], rig, SIZE)
    fed_back = {"rgb": drawn.rgb, "ccm": released_coordinate_map(drawn.depth * drawn.alpha, rig)}
    assert fed_back["ccm"].min() >= 0 and fed_back["ccm"].max() <= 1 and fed_back["ccm"].std() > 0.05

    (x_0, nothing, cameras), (x_1, self_cond, _) = notes["F"]
    assert nothing is None and x_0.std().item() == pytest.approx(700, rel=0.02)
    assert_close(cameras.c2w, rig.c2w)  # whatever the picture's elevation
    assert_close(x_1, notes["estimates"][0] + (x_0 - notes["estimates"][0]) * sigmas[1] / sigmas[0])  # Euler
    for name, expected in fed_back.items():
        assert_close(self_cond[name], expected, atol=1e-5, rtol=0)
    for step, (views, cameras, level) in enumerate(notes["G"]):
        assert torch.equal(views, notes["decoded"][step]) and views.min() < -0.9 and views.max() > 1.9  # not clamped
        assert_close(level, c_noise(sigmas[step]).expand(1))
        assert_close(cameras.c2w, rig.c2w)
    assert torch.equal(result.views, notes["decoded"][1].clamp(0, 1))
    assert result.cameras.positions[0, 0, 1] > 0.5 > -0.5 > result.cameras.positions[0, 4, 1]  # the orbit leans
