"""The models at the paper's scale: names, shapes and counts of the released ones, and their outputs (tests/parity)."""

import gzip
import json

import pytest
import torch
from parity_inputs import NARROW_F, NARROW_G, PARITY, draw, fill, load, released_cameras
from torch.testing import assert_close

from ouroboros_lib.cameras import evenly_spaced_orbit
from ouroboros_lib.models.feedback import released_coordinate_map
from ouroboros_lib.paper.lgm import LGMReconstructor
from ouroboros_lib.paper.released import ReleasedMultiviewUNet, ReleasedReconstructor
from ouroboros_lib.paper.svd import SVDMultiviewUNet, released_harmonics


@pytest.fixture(scope="module")
def narrow_f() -> SVDMultiviewUNet:
    return fill(SVDMultiviewUNet(**NARROW_F))


@pytest.fixture(scope="module")
def narrow_g() -> LGMReconstructor:
    return fill(LGMReconstructor(**NARROW_G))


@pytest.fixture(scope="module")
def few_heads() -> LGMReconstructor:
    """The released number of heads makes them so narrow here that attention takes most of the time."""
    return fill(LGMReconstructor(**NARROW_G, attention_heads=2))


def f_inputs(batch: int = 2, views: int = 4) -> dict:
    rig = evenly_spaced_orbit(views).expand(batch)
    maps = [torch.sigmoid(draw(name, batch, views, 3, 64, 64)) for name in ("rgb", "ccm")]
    return {"x": draw("x", batch, views, 4, 8, 8), "c_noise": torch.tensor([0.7, -0.3])[:batch],
            "cond_latents": draw("cond", batch, 4, 8, 8), "cameras": rig,
            "self_cond": dict(zip(("rgb", "ccm"), maps, strict=True)),
            "image_embeds": draw("tokens", batch, 1, 48), "added_time_ids": torch.tensor([[6, 127, 0.02]] * batch)}


@pytest.mark.parametrize("model_class, name, millions", [(SVDMultiviewUNet, "multiview_unet", 1765.0),
                                                         (LGMReconstructor, "gaussian_unet", 424.0)])
def test_names_shapes_and_counts_are_those_of_the_released_checkpoint(model_class, name, millions):
    with torch.device("meta"):
        model = model_class()
    released = json.loads(gzip.decompress((PARITY / "released_keys.json.gz").read_bytes()))[name]
    assert {key: list(value.shape) for key, value in model.state_dict().items()} == released
    assert round(sum(p.numel() for p in model.parameters()) / 1e6, 1) == millions


@torch.no_grad()
def test_f_gives_the_released_outputs():
    golden, cameras, latents = load("multiview_unet"), released_cameras(2), draw("latents", 2, 8, 8, 8, 8)
    model = fill(ReleasedMultiviewUNet(**NARROW_F))
    # the golden condition latents differ from view to view, which the model's interface rightly cannot express
    model.unet.conv_in.register_forward_pre_hook(lambda module, args: (latents.flatten(0, 1),))
    rgb, ccm = (torch.sigmoid(draw(name, 2, 8, 3, 64, 64)) for name in ("rgb", "ccm"))

    def run(self_cond):
        return model(latents[:, :, :4], torch.tensor([0.7, -0.3]), latents[:, 0, 4:], cameras, self_cond,
                     draw("image_embeds", 2, 1, 48), torch.tensor([[6, 127, 0.02], [6, 127, 0.05]]))

    levels = model.cond_encoder[0](rgb.flatten(0, 1))
    assert_close(levels[0][:2], golden["encoder0_level0"], atol=1e-5, rtol=1e-5)
    assert_close(levels[3], golden["encoder0_level3"], atol=1e-5, rtol=1e-5)
    assert_close(run({"rgb": rgb, "ccm": ccm}), golden["output_feedback"], atol=5e-5, rtol=1e-5)
    zero = {"rgb": torch.zeros_like(rgb), "ccm": torch.zeros_like(ccm)}
    assert_close(run(zero), golden["output_zero_feedback"], atol=5e-5, rtol=1e-5)
    assert_close(run(None), golden["output_zero_feedback"], atol=5e-5, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("noise, key", [(0.0, "gaussians_t0"), (0.9, "gaussians_t0_9")])
def test_g_gives_the_released_outputs(noise, key):
    images = torch.tanh(draw("images", 1, 8, 3, 96, 96)) / 2 + 0.5
    gaussians = fill(ReleasedReconstructor(**NARROW_G)).gaussians(images, released_cameras(1), torch.tensor([noise]))
    assert_close(gaussians.to_tensor()[:, ::16], load("gaussian_unet")[key], atol=5e-5, rtol=1e-5)


@torch.no_grad()
def test_the_released_coordinate_map():
    depth = torch.where(draw("mask", 1, 8, 1, 32, 32) > 0, 1.7 + 0.2 * draw("depth", 1, 8, 1, 32, 32), 0.0)
    maps = released_coordinate_map(depth, released_cameras(1))
    assert_close(maps, load("position_map")["position_map"], atol=2e-7, rtol=0)
    assert (maps - 0.5).abs().max() < 0.06  # nearly constant, whatever the object


def test_examples_of_a_batch_do_not_see_each_other(narrow_f):
    """They would with the released order of the tokens."""
    both = narrow_f(**f_inputs(2))
    inputs = f_inputs(2)
    alone = {key: value[:1] for key, value in inputs.items() if key != "self_cond"}
    alone["self_cond"] = {name: maps[:1] for name, maps in inputs["self_cond"].items()}
    assert_close(narrow_f(**alone), both[:1], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_f_takes_the_noisy_latents_first_and_every_condition_matters(narrow_f):
    inputs, plain = f_inputs(), narrow_f(**f_inputs())
    changes = {"c_noise": inputs["c_noise"] + 1, "cond_latents": -inputs["cond_latents"], "self_cond": None,
               "cameras": evenly_spaced_orbit(4, elevation=25).expand(2), "image_embeds": None,
               "added_time_ids": torch.tensor([[6, 60, 0.02]] * 2)}
    for name, value in changes.items():
        assert (narrow_f(**inputs | {name: value}) - plain).abs().max() > 1e-3, name
    assert_close(narrow_f(**inputs | {"added_time_ids": None}), plain)  # the default is SVD's (6, 127, 0.02)

    blind = fill(SVDMultiviewUNet(**NARROW_F))
    blind.unet.conv_in.weight[:, 4:] = 0  # SVD concatenates the condition behind the noisy latents
    assert_close(blind(**inputs), blind(**inputs | {"cond_latents": changes["cond_latents"]}))


def test_rays_are_the_cameras_own(narrow_f):
    rig = evenly_spaced_orbit(3, 20.0).expand(1)
    assert_close(narrow_f.camera_rays(rig, 8), rig.pluecker(8))
    # the released harmonics by hand: sines of both octaves for each coordinate, cosines, input
    x = torch.tensor([0.3, -0.2])
    expected = torch.tensor([0.3, 0.6, -0.2, -0.4])
    assert_close(released_harmonics(x, 2), torch.cat([expected.sin(), expected.cos(), x]))


def test_gradients_reach_every_part_of_f_and_checkpointing_changes_nothing():
    def gradients(checkpointing):
        model = fill(SVDMultiviewUNet(**NARROW_F)).train()
        if checkpointing:
            model.enable_gradient_checkpointing()
        output = model(**f_inputs(1))
        assert output.isfinite().all()
        output.square().mean().backward()
        return {name: parameter.grad for name, parameter in model.named_parameters()}

    plain = gradients(False)
    # A query or key of a cross-attention on a single token has no influence, whatever the token.
    inert = ("attn2.to_q", "attn2.to_k", "transformer_blocks.0.norm2")
    for name, gradient in plain.items():
        assert gradient is not None and gradient.isfinite().all(), name
        if not any(part in name for part in inert):
            assert gradient.abs().max() > 0, name
    for name, gradient in gradients(True).items():
        assert_close(gradient, plain[name], atol=1e-6, rtol=1e-4, msg=name)


def test_g_gives_unit_quaternions_and_gradients_reach_every_part(few_heads):
    images = torch.rand(2, 8, 3, 48, 48, generator=torch.Generator().manual_seed(0))
    gaussians = few_heads(images, evenly_spaced_orbit(8).expand(2), torch.tensor([0.0, 0.9]))
    assert gaussians.shape == (2, 4 * 32 * 32)
    assert_close(gaussians.quaternions.norm(dim=-1), torch.ones(2, 4096))
    assert gaussians.means.abs().max() <= 1 and (gaussians.scales > 0).all()
    assert 0 <= gaussians.opacities.min() and gaussians.colors.max() <= 1

    few_heads.zero_grad()
    gaussians.to_tensor().square().mean().backward()
    for name, parameter in few_heads.named_parameters():
        assert parameter.grad.isfinite().all() and parameter.grad.abs().max() > 0, name


@torch.no_grad()
def test_g_reads_only_its_views_and_starts_without_the_noise_level(few_heads):
    images = torch.rand(1, 8, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    rig, noise = evenly_spaced_orbit(8).expand(1), torch.tensor([0.5])
    plain = few_heads(images, rig, noise).to_tensor()
    unread = images.clone()
    unread[:, 1::2] = 0
    assert_close(few_heads(unread, rig, noise).to_tensor(), plain)
    assert (few_heads(images, rig, noise + 1).to_tensor() - plain).abs().max() > 1e-3
    fresh = LGMReconstructor(**few_heads.config)  # its noise projections are zero: it starts as LGM
    assert_close(fresh(images, rig, noise).to_tensor(), fresh(images, rig, noise + 1).to_tensor())


def test_models_save_and_load_as_folders(narrow_f, narrow_g, tmp_path):
    for model in (narrow_f, narrow_g):
        folder = tmp_path / type(model).__name__
        model.save_pretrained(folder)
        loaded = type(model).from_pretrained(folder)
        assert {key: value for key, value in loaded.config.items() if not key.startswith("_")} == {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in model.config.items() if not key.startswith("_")}
        state = loaded.state_dict()
        for name, value in model.state_dict().items():
            assert_close(state[name], value, atol=0, rtol=0)
    with torch.no_grad():
        loaded = SVDMultiviewUNet.from_pretrained(tmp_path / "SVDMultiviewUNet").eval()
        assert_close(loaded(**f_inputs(1)), narrow_f(**f_inputs(1)))
