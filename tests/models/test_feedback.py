"""What is fed back: renders by name, their encoders, and a third map by one entry."""

import torch

from ouroboros_lib.cameras import OBJECT_RADIUS, evenly_spaced_orbit
from ouroboros_lib.gaussians import Gaussians
from ouroboros_lib.models.feedback import FEEDBACK_MAPS, FeedbackEncoder, Renders, render_feedback
from ouroboros_lib.models.multiview import MultiviewUNet
from ouroboros_lib.rasterization import rasterize

VIEWS, SIZE = 4, 32


def uniform(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def maps(batch=2, seed=0):
    shape = (batch, VIEWS, 3, SIZE, SIZE)
    return {"rgb": uniform(*shape, seed=seed), "ccm": uniform(*shape, seed=seed + 1)}


def test_renders_keep_the_maps_that_a_feedback_names():
    renders = Renders(maps(), alpha=torch.ones(2, VIEWS, 1, SIZE, SIZE))
    assert renders.rgb is renders["rgb"] and not hasattr(renders, "depth")
    assert renders.keep("none") is None and list(renders.keep("both")) == ["rgb", "ccm"]
    assert list(renders.keep("ccm")) == ["ccm"] and torch.equal(renders.keep("ccm")["ccm"], renders.ccm)


def test_a_third_map_is_one_entry(tiny, monkeypatch):
    """F gets an encoder for it by its config, and the renderer fills it."""
    monkeypatch.setitem(FEEDBACK_MAPS, "depth", lambda rendering, cameras: rendering.depth.expand_as(rendering.rgb))
    network = MultiviewUNet.from_config(tiny.multiview.config, feedback="rgb+ccm+depth")
    assert tuple(network.feedback_encoders) == ("rgb", "ccm", "depth")
    network.load_state_dict(tiny.multiview.state_dict(), strict=False)
    tiny.register_modules(multiview=network)
    picture = uniform(1, 3, SIZE, SIZE)
    out = tiny(picture, num_inference_steps=2, plan="feedback=rgb+ccm+depth",
               generator=torch.Generator().manual_seed(0))
    assert out.renders.depth.shape == out.renders.rgb.shape and out.renders.depth.max() > 1


def test_encoder_gives_one_map_a_stage():
    features = FeedbackEncoder((16, 24, 40), width=32)(uniform(3, 3, 64, 64))
    assert [tuple(f.shape) for f in features] == [(3, 16, 8, 8), (3, 24, 4, 4), (3, 40, 2, 2)]
    assert not any(f.any() for f in features)


def test_fed_back_renders_are_color_and_place():
    """One small opaque Gaussian: its pixel holds its color, and its centre in canonical coordinates."""
    point, color = torch.tensor([0.2, -0.1, 0.3]), torch.tensor([0.9, 0.2, 0.4])
    one = Gaussians(point[None, None], torch.full((1, 1), 0.99), torch.full((1, 1, 3), 0.05),
                    torch.tensor([[[1.0, 0, 0, 0]]]), color[None, None])
    cameras = evenly_spaced_orbit(VIEWS, 10.0).expand(1)
    renders = render_feedback(one, cameras, SIZE)
    torch.testing.assert_close(renders.rgb, rasterize(one, cameras, SIZE).rgb)
    canonical = point / (2 * OBJECT_RADIUS) + 0.5
    covered = renders.alpha > 0.5
    assert covered.any(dim=-1).any(dim=-1).all()
    expected = canonical[:, None, None] * renders.alpha
    torch.testing.assert_close(renders.ccm, expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(renders.rgb, color[:, None, None] * renders.alpha + 1 - renders.alpha, atol=1e-5, rtol=0)
