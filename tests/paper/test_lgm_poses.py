"""The cameras of LGM, whose weights know the world of view 0 only."""

import torch

from ouroboros_lib.cameras import evenly_spaced_orbit, relative_to_first
from ouroboros_lib.models.feedback import render_feedback
from ouroboros_lib.paper.lgm import LGMReconstructor
from ouroboros_lib.pipeline import Ouroboros3DPipeline


@torch.no_grad()
def test_g_computes_in_the_world_of_view_0_and_answers_in_ours(perturb):
    """The same pictures around the same orbit, tilted: LGM's weights see no difference, and the Gaussians tilt."""
    config = Ouroboros3DPipeline.from_preset("narrow").reconstructor.config
    plain = perturb(LGMReconstructor.from_config(config, relative_poses=False), scale=0.02)
    ours = LGMReconstructor.from_config(config)
    ours.load_state_dict(plain.state_dict())
    images, level = torch.rand(2, 8, 3, 64, 64, generator=torch.Generator().manual_seed(0)), torch.tensor([0.3, 0.3])
    rigs = evenly_spaced_orbit(8, torch.tensor([-5.0, 30.0]))
    relative, _ = relative_to_first(rigs)
    there = render_feedback(plain(images, relative, level), relative, 32)
    here = render_feedback(ours(images, rigs, level), rigs, 32)
    # on average: a splat ends where it fades below 1/255, and rounding moves that edge by a pixel
    assert (here.rgb - there.rgb).abs().mean() < 1e-3
    assert (here.ccm - there.ccm).abs().max() > 0.05  # but coordinates are those of the object, not of view 0
    assert (plain(images, rigs, level).means - ours(images, rigs, level).means).abs().max() > 0.05
