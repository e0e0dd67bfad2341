"""The small models: shapes, ranges, what mixes and what does not, and what an untrained one already promises."""

import copy

import pytest
import torch

from ouroboros_lib.cameras import RADIUS, evenly_spaced_orbit
from ouroboros_lib.errors import InputError
from ouroboros_lib.models.autoencoder import Autoencoder
from ouroboros_lib.models.feedback import feedback_names
from ouroboros_lib.models.layers import (
    SEQUENCES_AT_ONCE,
    VIEW_ATTENTIONS,
    MultiviewAttention,
    ResBlock,
    TemporalAttention,
    attention,
    harmonic_embedding,
    sinusoidal_embedding,
)
from ouroboros_lib.models.multiview import MultiviewUNet
from ouroboros_lib.models.reconstructor import DEPTH_RANGE, GaussianReconstructor
from ouroboros_lib.presets import load_preset, preset_names, random_models

VIEWS, SIZE = 4, 32


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def uniform(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def f_inputs(batch=2, seed=0):
    return (draw(batch, VIEWS, 8, 4, 4, seed=seed), torch.linspace(-0.5, 0.9, batch),
            draw(batch, 8, 4, 4, seed=seed + 1), evenly_spaced_orbit(VIEWS, torch.linspace(0, 20, batch)))


def maps(batch=2, seed=0):
    shape = (batch, VIEWS, 3, SIZE, SIZE)
    return {"rgb": uniform(*shape, seed=seed), "ccm": uniform(*shape, seed=seed + 1)}


def differences(a, b):
    """(B, V): the largest difference in each view."""
    return (a - b).abs().flatten(2).amax(-1)


# --- layers ---

def test_a_residual_block_starts_as_the_identity_and_reads_the_embedding_later(perturb):
    block = ResBlock(16, 16, embedding=8)
    x, embedding = draw(2, 16, 4, 4), draw(2, 8)
    torch.testing.assert_close(block(x, embedding), x)
    perturb(block)
    assert not torch.allclose(block(x, embedding), block(x, embedding + 1))


def test_embeddings_have_the_stated_values():
    x = torch.tensor([0.3])[:, None, None]
    expected = [0.3] + [f(torch.tensor(v)).item() for f in (torch.sin, torch.cos) for v in (0.3, 0.6)]
    torch.testing.assert_close(harmonic_embedding(x, 2).flatten(), torch.tensor(expected))
    embedding = sinusoidal_embedding(torch.tensor([0.0, 0.7]), 8, max_frequency=200.0)
    torch.testing.assert_close(embedding[0], torch.tensor([0.0] * 4 + [1.0] * 4))
    torch.testing.assert_close(embedding[1, [0, 3]], torch.tensor([0.7, 140.0]).sin())


def test_attention_looks_at_all_views_of_its_own_object(perturb):
    layer = MultiviewAttention(32)
    x = draw(2 * VIEWS, 32, 3, 3)
    torch.testing.assert_close(layer(x, VIEWS), x)  # starts as if it were not there
    perturb(layer, 0.2)
    changed = x.clone()
    changed[3] = draw(32, 3, 3, seed=1)  # view 3 of object 0
    difference = differences(*(layer(y, VIEWS).unflatten(0, (2, VIEWS)) for y in (x, changed)))
    assert (difference[0] > 1e-4).all() and (difference[1] == 0).all()
    with pytest.raises(ValueError, match="multiple of 48 or 32"):
        MultiviewAttention(40)


def test_factorised_attention_sees_its_own_view_and_its_own_pixel(perturb):
    """What a pixel depends on: its view, then the same pixels of the other views; nothing of other objects."""
    spatial, temporal = perturb(MultiviewAttention(32), 0.2), perturb(TemporalAttention(32), 0.2)
    x = torch.randn(6, 32, 4, 4, generator=torch.Generator().manual_seed(0))  # two objects of three views
    changed = x.clone()
    changed[1, :, 2, 3] += 1
    for layer, reached in ((spatial, torch.zeros(6, 4, 4, dtype=torch.bool)),
                           (temporal, torch.zeros(6, 4, 4, dtype=torch.bool))):
        if layer is spatial:
            reached[1] = True
        else:
            reached[:3, 2, 3] = True
        # group norm looks at the whole view, so compare what the tokens alone decide
        layer.norm = torch.nn.Identity()
        views = 1 if layer is spatial else 3
        difference = (layer(changed, views) - layer(x, views)).abs().amax(1) > 1e-6
        assert torch.equal(difference, reached), type(layer).__name__


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(
    not torch.cuda.is_available(), reason="needs a CUDA device"))])
def test_more_sequences_than_a_kernel_takes(device):
    """The 65,536 that 256 objects of 16 x 16 pixels have: each attends to its own tokens, forwards and backwards."""
    dtype, tolerance = (torch.bfloat16, 0.05) if device == "cuda" else (torch.float32, 1e-4)
    q, k, v = (draw(2 * SEQUENCES_AT_ONCE + 5, 1, 2, 48, seed=seed).to(device, dtype).requires_grad_()
               for seed in range(3))
    result = attention(q, k, v)
    weights = (q.float() @ k.float().transpose(-1, -2) / 48**0.5).softmax(-1)
    torch.testing.assert_close(result.float(), weights @ v.float(), rtol=tolerance, atol=tolerance)
    result[-1].sum().backward()
    assert v.grad[-1].any() and not v.grad[:-1].any()


@pytest.mark.parametrize("kind", VIEW_ATTENTIONS)
def test_views_of_an_object_learn_of_each_other_with_either_attention(kind, perturb):
    model = perturb(MultiviewUNet(image_size=SIZE, channels=(32, 64), attention=(True, True), embedding=64,
                                  view_attention=kind), 0.05)
    cameras = evenly_spaced_orbit(3).expand(2)
    x = torch.randn(2, 3, 8, 4, 4, generator=torch.Generator().manual_seed(0))
    changed = x.clone()
    changed[0, 1] += 1
    out, other = (model(value, torch.zeros(2), x[:, 0], cameras) for value in (x, changed))
    moved = (out - other).abs().amax((2, 3, 4)) > 1e-6
    assert moved.tolist() == [[True] * 3, [False] * 3]


def test_attention_does_not_care_for_the_order_of_views(perturb):
    layer, order = perturb(MultiviewAttention(32), 0.2), [2, 0, 3, 1]
    x = draw(VIEWS, 32, 3, 3)
    torch.testing.assert_close(layer(x[order], VIEWS), layer(x, VIEWS)[order])


# --- autoencoder ---

@torch.no_grad()
def test_autoencoder_shapes(tiny):
    images = uniform(2, VIEWS, 3, SIZE, SIZE)
    latents = tiny.autoencoder.encode(images)
    assert latents.shape == (2, VIEWS, tiny.autoencoder.config.latent_channels, *[SIZE // 8] * 2)
    decoded = tiny.autoencoder.decode(latents)
    assert decoded.shape == images.shape
    torch.testing.assert_close(tiny.autoencoder.decode(latents[:, 0]), decoded[:, 0])  # any leading dimensions


@torch.no_grad()
def test_normalisation_changes_latents_and_not_pictures(tiny):
    autoencoder, images = tiny.autoencoder, uniform(3, 3, SIZE, SIZE)
    raw = autoencoder.encode(images)
    decoded = autoencoder.decode(raw)
    mean, std = raw.mean((0, 2, 3))[:, None, None], raw.std((0, 2, 3))[:, None, None]
    autoencoder.latent_mean.copy_(mean)
    autoencoder.latent_std.copy_(std)
    normal = autoencoder.encode(images)
    torch.testing.assert_close(normal, (raw - mean) / std)
    torch.testing.assert_close(normal.mean((0, 2, 3)), torch.zeros(8), atol=1e-4, rtol=0)
    torch.testing.assert_close(normal.std((0, 2, 3)), torch.ones(8), atol=1e-4, rtol=0)
    torch.testing.assert_close(autoencoder.decode(normal), decoded, atol=1e-5, rtol=1e-4)
    torch.manual_seed(0)
    samples = torch.stack([autoencoder.encode(images, sample=True) for _ in range(50)])
    spread = (autoencoder.posterior(images)[1] / 2).exp() / std
    torch.testing.assert_close(samples.std(0).mean(), spread.mean(), atol=0, rtol=0.05)


@torch.no_grad()
def test_divergence_is_that_of_the_two_gaussians(tiny):
    images = uniform(2, 3, SIZE, SIZE)
    _, kl = tiny.autoencoder(images)
    mean, log_variance = tiny.autoencoder.posterior(images)
    posterior = torch.distributions.Normal(mean, (log_variance / 2).exp())
    expected = torch.distributions.kl_divergence(posterior, torch.distributions.Normal(0.0, 1.0)).mean()
    torch.testing.assert_close(kl, expected)
    assert not torch.equal(tiny.autoencoder(images)[0], tiny.autoencoder(images)[0])  # samples of the posterior
    torch.testing.assert_close(tiny.autoencoder(images, sample=False)[0],
                               tiny.autoencoder.decode(tiny.autoencoder.encode(images)))


# --- F and its feedback ---

@torch.no_grad()
def test_f_gives_a_finite_output_that_every_input_changes(tiny):
    x, level, cond, cameras = f_inputs()
    output = tiny.multiview(x, level, cond, cameras)
    assert output.shape == x.shape and output.isfinite().all()
    others = [(x + 1, level, cond, cameras), (x, level + 1, cond, cameras), (x, level, cond + 1, cameras),
              (x, level, cond, evenly_spaced_orbit(VIEWS, torch.tensor([30.0, 30.0])))]
    for other in others:
        assert (differences(tiny.multiview(*other), output) > 1e-4).all()


@torch.no_grad()
def test_f_mixes_the_views_of_an_object_and_not_the_objects(tiny):
    x, *rest = f_inputs()
    changed = x.clone()
    changed[0, 3] += 1
    difference = differences(tiny.multiview(changed, *rest), tiny.multiview(x, *rest))
    assert (difference[0] > 1e-4).all() and (difference[1] < 1e-6).all()


@torch.no_grad()
def test_an_untrained_f_says_nothing():
    assert torch.equal(MultiviewUNet(image_size=SIZE, channels=(32, 64), attention=(True, False), embedding=64)(
        *f_inputs()), torch.zeros(2, VIEWS, 8, 4, 4))


@torch.no_grad()
def test_new_feedback_encoders_change_nothing_and_trained_ones_do(tiny, perturb):
    network = MultiviewUNet.from_config(tiny.multiview.config).eval()
    for name, part in network.named_children():
        if name != "feedback_encoders":
            perturb(part)
    inputs = f_inputs()
    without = network(*inputs)
    assert without.abs().max() > 1e-3
    torch.testing.assert_close(network(*inputs, maps()), without, atol=0, rtol=0)

    trained = tiny.multiview
    fed, other = trained(*inputs, maps()), maps(seed=5)
    assert (differences(fed, trained(*inputs)) > 1e-4).all()
    for changed in (maps() | {"rgb": other["rgb"]}, maps() | {"ccm": other["ccm"]}):
        assert (differences(fed, trained(*inputs, changed)) > 1e-4).all()


@torch.no_grad()
def test_no_feedback_is_zero_maps(tiny):
    inputs, given = f_inputs(), maps()
    zeros = {name: torch.zeros_like(value) for name, value in given.items()}
    torch.testing.assert_close(tiny.multiview(*inputs, zeros), tiny.multiview(*inputs), atol=1e-6, rtol=1e-5)
    one = tiny.multiview(*inputs, {"rgb": given["rgb"], "ccm": zeros["ccm"]})
    torch.testing.assert_close(tiny.multiview(*inputs, {"rgb": given["rgb"]}), one, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("feedback, names", [("both", ("rgb", "ccm")), ("rgb", ("rgb",)), ("ccm+rgb", ("ccm", "rgb")),
                                             ("none", ())])
def test_only_the_encoders_asked_for_exist(tiny, feedback, names):
    network = MultiviewUNet.from_config(tiny.multiview.config, feedback=feedback)
    assert tuple(network.feedback_encoders) == names == network.feedbacks == feedback_names(feedback)
    assert network(*f_inputs(), maps()).shape == (2, VIEWS, 8, 4, 4)


# --- G ---

def g_inputs(batch=2, seed=0):
    return (uniform(batch, VIEWS, 3, SIZE, SIZE, seed=seed), evenly_spaced_orbit(VIEWS, torch.linspace(0, 20, batch)),
            torch.linspace(-0.5, 0.9, batch))


def projected_distance(gaussians, cameras):
    """(B, N): how many grid pixels each Gaussian lies from the grid pixel it belongs to, in that pixel's view."""
    grid = SIZE // 2
    batch = len(gaussians.means)
    views = gaussians.means.unflatten(1, (VIEWS, grid * grid))  # by view, row and column
    uv = torch.stack([cameras[:, v:v + 1].project(views[:, v])[0][:, 0] for v in range(VIEWS)], 1)
    rows, columns = torch.meshgrid(*[(torch.arange(grid) + 0.5) / grid] * 2, indexing="ij")
    own = torch.stack([columns, rows], -1).flatten(0, 1)
    return ((uv - own) * grid).norm(dim=-1).reshape(batch, -1)


@torch.no_grad()
def test_untrained_gaussians_lie_on_their_pixels_and_have_their_colors(tiny):
    images, cameras, level = g_inputs()
    gaussians = GaussianReconstructor.from_config(tiny.reconstructor.config)(images, cameras, level)
    assert gaussians.shape == (2, VIEWS * (SIZE // 2) ** 2)
    assert projected_distance(gaussians, cameras).max() < 0.01
    color = torch.nn.functional.avg_pool2d(images.flatten(0, 1), 2).movedim(1, -1).reshape(2, -1, 3)
    torch.testing.assert_close(gaussians.colors, color.clamp(0.02, 0.98), atol=1e-5, rtol=0)
    own = cameras.positions.repeat_interleave((SIZE // 2) ** 2, dim=1)
    torch.testing.assert_close((gaussians.means - own).norm(dim=-1), torch.full(gaussians.shape, RADIUS))


@torch.no_grad()
@pytest.mark.parametrize("scale", [0.03, 0.3])
def test_gaussians_stay_in_range(tiny, perturb, scale):
    images, cameras, level = g_inputs()
    gaussians = perturb(tiny.reconstructor, scale)(images, cameras, level)
    assert all(getattr(gaussians, name).isfinite().all() for name in ("means", "scales", "colors"))
    assert 0 <= gaussians.opacities.min() and gaussians.opacities.max() <= 1
    assert 0 <= gaussians.colors.min() and gaussians.colors.max() <= 1
    torch.testing.assert_close(gaussians.quaternions.norm(dim=-1), torch.ones(gaussians.shape))
    pixel = RADIUS / (SIZE // 2 * float(cameras.intrinsics[0, 0, 0, 0]))
    limits = torch.tensor([-4.0, 2.0]).exp() * 0.6 * pixel * torch.tensor([0.999, 1.001])
    assert limits[0] <= gaussians.scales.min() and gaussians.scales.max() <= limits[1]
    # 1.5 pixels to each side at the object's distance look larger close to the camera
    assert projected_distance(gaussians, cameras).max() < 2**0.5 * 1.5 * RADIUS / (RADIUS - DEPTH_RANGE) * 1.2


@torch.no_grad()
def test_g_reads_noise_level_cameras_and_every_view(tiny):
    images, cameras, level = g_inputs()
    network = tiny.reconstructor.network
    output = network(images, cameras, level)
    assert output.shape == (2, VIEWS, 14, SIZE // 2, SIZE // 2)
    changed = level.clone()
    changed[0] += 1
    difference = differences(network(images, cameras, changed), output)
    assert (difference[0] > 1e-4).all() and (difference[1] < 1e-5).all()
    other = images.clone()
    other[0, 3] = 1 - other[0, 3]
    difference = differences(network(other, cameras, level), output)
    assert (difference[0] > 1e-4).all() and (difference[1] < 1e-5).all()
    rig = evenly_spaced_orbit(VIEWS, torch.tensor([30.0, 30.0]))
    assert (differences(network(images, rig, level), output) > 1e-4).all()


# --- folders and presets ---

@torch.no_grad()
def test_models_save_and_load_as_folders(tiny, tmp_path):
    tiny.autoencoder.latent_std.fill_(1.7)  # a buffer that must travel as well
    for name, model_class in (("autoencoder", Autoencoder), ("multiview", MultiviewUNet),
                              ("reconstructor", GaussianReconstructor)):
        model = getattr(tiny, name)
        model.save_pretrained(tmp_path / name)
        loaded = model_class.from_pretrained(tmp_path / name)
        assert all(loaded.config[key] == value for key, value in model.config.items() if not key.startswith("_"))
        state = loaded.state_dict()
        assert state.keys() == model.state_dict().keys()
        assert all(torch.equal(state[key], value) for key, value in model.state_dict().items())


def test_presets_are_found_by_name():
    assert {"tiny", "small"} <= set(preset_names())
    for name in preset_names():
        preset = load_preset(name)
        assert preset.name == name and preset.image_size % 8 == 0 and preset.description
    with pytest.raises(InputError, match=r"^unknown preset 'smal': expected one of .*small, tiny$"):
        load_preset("smal")


def test_random_models_follow_the_seed_alone():
    preset = load_preset("tiny")
    torch.manual_seed(5)
    before = torch.get_rng_state()
    a, b, c = (random_models(preset, seed)["multiview"].state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(a[key], b[key]) for key in a)
    assert any(not torch.equal(a[key], c[key]) for key in a)


def test_small_fits_its_weights_budget():
    """33 megabytes in half precision for all three models; LPIPS's AlexNet and the background remover take seven."""
    with torch.device("meta"):
        models = [load_preset("small").create(name) for name in ("autoencoder", "multiview", "reconstructor")]
    assert 32e6 < 2 * sum(parameter.numel() for model in models for parameter in model.parameters()) < 33.2e6
    assert models[1].middle_attention.heads == 3 and models[0].encoder[0].weight.shape == (48, 12, 3, 3)
    assert models[0].decoder[0].weight.shape == (160, 8, 3, 3)


def test_create_changes_the_configuration_of_a_component():
    preset = load_preset("tiny")
    before = copy.deepcopy(preset.components)
    assert preset.create("multiview", feedback="none").feedbacks == ()
    assert preset.components == before and preset.create("scheduler").config.sigma_max == 80.0
