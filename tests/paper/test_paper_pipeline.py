"""The pipeline with the paper's parts, narrow: SVD's autoencoder, CLIP's token, guidance in one batch, offloading."""

import copy

import pytest
import torch
from comparing import gap, seeded
from diffusers.pipelines.stable_video_diffusion.pipeline_stable_video_diffusion import _resize_with_antialiasing
from torch.testing import assert_close
from transformers import CLIPImageProcessor

from ouroboros_lib.cameras import evenly_spaced_orbit
from ouroboros_lib.errors import InputError
from ouroboros_lib.models.condition import Condition
from ouroboros_lib.models.image_token import image_token
from ouroboros_lib.noise import denoise
from ouroboros_lib.pipeline import Ouroboros3DPipeline
from ouroboros_lib.presets import load_preset

PICTURE = torch.rand(1, 3, 64, 64, generator=seeded(5))


@pytest.fixture(scope="module")
def _narrow(perturb):
    pipe = Ouroboros3DPipeline.from_pretrained("narrow")
    for seed, model in enumerate((pipe.autoencoder, pipe.multiview, pipe.reconstructor, pipe.image_encoder)):
        perturb(model.eval(), seed=seed, scale=0.02)
    pipe.set_progress_bar_config(disable=True)
    pipe(PICTURE, num_inference_steps=1)  # numba's first call may change torch's number of threads: last digits
    return pipe


@pytest.fixture
def narrow(_narrow):
    return copy.deepcopy(_narrow)


def test_paper_has_all_its_parts():
    with torch.device("meta"):
        pipe = Ouroboros3DPipeline.from_preset("paper")
    millions = {name: round(sum(p.numel() for p in part.parameters()) / 1e6, 1)
                for name, part in pipe.components.items() if isinstance(part, torch.nn.Module)}
    assert millions == {"autoencoder": 97.7, "multiview": 1765.0, "reconstructor": 424.0, "image_encoder": 632.1}
    assert (pipe.image_size, pipe.num_views, pipe.config.guidance_scale) == (512, 8, [1.0, 3.0])


def test_an_f_that_takes_a_token_needs_an_image_encoder(narrow):
    parts = {name: part for name, part in narrow.components.items() if name != "image_encoder"}
    with pytest.raises(InputError, match="SVDMultiviewUNet takes an image token: give the pipeline an image_encoder"):
        Ouroboros3DPipeline(**parts)


# --- SVD's autoencoder ---


@torch.no_grad()
def test_latents_are_the_scaled_mode_of_svds_vae(narrow):
    vae, autoencoder = narrow.autoencoder.vae, narrow.autoencoder
    images = torch.rand(2, 3, 3, 64, 64, generator=seeded())
    mode = vae.encode(images.flatten(0, 1) * 2 - 1).latent_dist.mode()
    latents = autoencoder.encode(images)
    assert latents.shape == (2, 3, 4, 8, 8) and autoencoder.config.latent_channels == 4
    assert_close(latents.flatten(0, 1), mode * 0.18215)
    torch.manual_seed(0)
    samples = torch.stack([autoencoder.encode(images, sample=True) for _ in range(24)])
    assert_close(samples.mean(0), latents, atol=0.2, rtol=0)
    spread = vae.encode(images.flatten(0, 1) * 2 - 1).latent_dist.std * 0.18215
    assert_close(samples.std(0).mean(), spread.mean(), atol=0, rtol=0.05)
    decoded = vae.decode(mode, num_frames=3).sample / 2 + 0.5
    assert_close(autoencoder.decode(latents).flatten(0, 1), decoded, atol=1e-5, rtol=1e-5)
    assert_close(autoencoder.decode(latents[0]), autoencoder.decode(latents)[0], atol=1e-5, rtol=1e-5)  # no batch


@torch.no_grad()
def test_the_condition_is_noised_and_not_scaled(narrow):
    autoencoder = narrow.autoencoder
    noise = torch.randn(PICTURE.shape, generator=seeded(3))
    pixels = PICTURE * 2 - 1
    expected = autoencoder.vae.encode(pixels + 0.02 * noise).latent_dist.mode()
    assert_close(autoencoder.encode_condition(PICTURE, seeded(3)), expected, atol=1e-5, rtol=1e-5)
    stronger = autoencoder.encode_condition(PICTURE.expand(2, -1, -1, -1), [seeded(3), seeded(3)],
                                            torch.tensor([0.02, 0.5]))
    assert_close(stronger[:1], expected, atol=1e-5, rtol=1e-5)
    assert_close(stronger[1:], autoencoder.vae.encode(pixels + 0.5 * noise).latent_dist.mode(), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_decoding_in_chunks_is_decoding_each_chunk_by_itself(narrow):
    latents = torch.randn(2, 8, 4, 8, 8, generator=seeded())
    whole = narrow.autoencoder.decode(latents)
    narrow.autoencoder.register_to_config(decode_chunk=3)
    parts = narrow.autoencoder.decode(latents)
    narrow.autoencoder.register_to_config(decode_chunk=None)
    for start, stop in ((0, 3), (3, 6), (6, 8)):
        assert_close(parts[:, start:stop], narrow.autoencoder.decode(latents[:, start:stop]), atol=1e-5, rtol=1e-5)
    assert gap(parts, whole) > 1e-3  # the decoder looks at neighbouring views: chunks are not the same picture
    narrow.autoencoder.register_to_config(decode_chunk=8)
    assert torch.equal(narrow.autoencoder.decode(latents), whole)


def test_the_encoder_stays_in_single_precision(narrow, tmp_path):
    narrow.save_pretrained(tmp_path)
    half = Ouroboros3DPipeline.from_pretrained(tmp_path, torch_dtype=torch.float16)
    types = {name: value.dtype for name, value in half.autoencoder.vae.named_parameters()}
    assert types["encoder.conv_in.weight"] == types["quant_conv.weight"] == torch.float32
    assert types["decoder.conv_in.weight"] == half.multiview.dtype == torch.float16


@torch.no_grad()
def test_bfloat16_runs_and_comes_close(narrow, tmp_path):
    """Inputs are cast where they meet the weights; noise and latents stay in single precision between the steps."""
    narrow.save_pretrained(tmp_path)
    half = Ouroboros3DPipeline.from_pretrained(tmp_path, torch_dtype=torch.bfloat16)
    half.set_progress_bar_config(disable=True)
    a, b = (pipe(PICTURE, num_inference_steps=1, generator=seeded()) for pipe in (narrow, half))
    assert b.views.dtype == b.gaussians.means.dtype == torch.float32
    assert gap(a.views, b.views) > 0
    assert (a.views - b.views).square().mean().sqrt() < 0.03  # 30 dB at least, of random weights and under guidance


# --- the image token ---


@torch.no_grad()
def test_the_token_is_what_svds_pipeline_computes(narrow):
    images = torch.rand(2, 3, 64, 64, generator=seeded())
    small = (_resize_with_antialiasing(images * 2 - 1, (32, 32)) + 1) / 2
    pixels = CLIPImageProcessor()(images=list(small), do_normalize=True, do_center_crop=False, do_resize=False,
                                  do_rescale=False, return_tensors="pt").pixel_values
    token = image_token(narrow.image_encoder, images)
    assert token.shape == (2, 1, 48)
    assert_close(token[:, 0], narrow.image_encoder(pixels).image_embeds, atol=1e-5, rtol=1e-4)
    with torch.no_grad():
        a, b = (narrow(PICTURE, num_inference_steps=1, generator=seeded(), guidance_scale=1.0).views for _ in range(2))
        for parameter in narrow.image_encoder.parameters():
            parameter.mul_(1.5)
        c = narrow(PICTURE, num_inference_steps=1, generator=seeded(), guidance_scale=1.0).views
    assert torch.equal(a, b) and gap(a, c) > 1e-4


# --- guidance ---


@torch.no_grad()
@pytest.mark.parametrize("kind", ["narrow", "tiny"])
def test_guidance_in_one_batch_is_that_of_two_passes(kind, request):
    pipe = request.getfixturevalue(kind)
    latents, size, views = (4, 8, pipe.num_views) if kind == "narrow" else (8, 4, pipe.num_views)
    rig = evenly_spaced_orbit(views, torch.tensor([5.0, 20.0]))
    x = torch.randn(2, views, latents, size, size, generator=seeded())
    cond, sigma = torch.randn(2, latents, size, size, generator=seeded(1)), torch.tensor([3.0, 0.5])
    side = pipe.image_size
    maps = [torch.rand(2, views, 3, side, side, generator=seeded(seed)) for seed in (2, 3)]
    self_cond = dict(zip(("rgb", "ccm"), maps, strict=True))
    embeds = torch.randn(2, 1, 48, generator=seeded(4)) if kind == "narrow" else None
    scale = torch.linspace(1, 3, views)[None, :, None, None, None]

    def pass_(cond, token):
        return denoise(pipe.multiview, x, sigma, cond, rig, self_cond,
                       **({} if token is None else {"image_embeds": token}))

    known = pass_(cond, embeds)
    unknown = pass_(torch.zeros_like(cond), None)  # no token is a token of zeros
    together = pipe.estimate(x, sigma, Condition(cond, embeds, guidance=scale), rig, self_cond)
    assert_close(together, unknown + scale * (known - unknown), atol=1e-4, rtol=1e-4)
    assert gap(known, unknown) > 1e-3
    assert_close(together[:, 0], known[:, 0], atol=1e-4, rtol=1e-4)  # scale 1 at view 0


def test_the_presets_guidance_is_the_default(narrow, tiny):
    def views(**options):
        return narrow(PICTURE, num_inference_steps=1, generator=seeded(), **options).views

    assert torch.equal(views(), views(guidance_scale=(1.0, 3.0))) and gap(views(), views(guidance_scale=1.0)) > 1e-4
    assert load_preset("small").pipeline == {} and tiny.config.guidance_scale == 1.0


# --- cameras ---


@torch.no_grad()
@pytest.mark.parametrize("kind", ["narrow", "tiny"])
def test_cameras_are_embedded_once_and_mean_the_same(kind, request, monkeypatch):
    pipe = request.getfixturevalue(kind)
    channels, size, views = (4, 8, 8) if kind == "narrow" else (8, 4, 4)
    rig = evenly_spaced_orbit(views, torch.tensor([5.0, 20.0]))
    x, cond = torch.randn(2, views, channels, size, size), torch.randn(2, channels, size, size)
    level = torch.tensor([0.3, -0.2])
    seen = pipe.multiview.embed_cameras(rig, size)
    assert torch.equal(pipe.multiview(x, level, cond, seen), pipe.multiview(x, level, cond, rig))
    one, second = (pipe.multiview(x[1:], level[1:], cond[1:], cameras[1:]) for cameras in (seen, rig))
    assert_close(one, second, atol=1e-6, rtol=1e-5)

    calls, embed = [], pipe.multiview.embed_cameras
    monkeypatch.setattr(pipe.multiview, "embed_cameras", lambda *args: calls.append(args) or embed(*args))
    image = torch.rand(1, 3, pipe.image_size, pipe.image_size, generator=seeded())
    pipe(image, num_inference_steps=2, guidance_scale=2.0, generator=seeded())
    assert len(calls) == 1


# --- offloading ---


def test_model_offloading_moves_every_part_when_it_is_needed(narrow):
    """On a machine without GPU both sides are the CPU; that the hooks are called in time is what counts."""
    expected = narrow(PICTURE, num_inference_steps=2, generator=seeded())
    narrow.enable_model_cpu_offload(device="cpu")
    order = []
    for name, part in narrow.components.items():
        if isinstance(part, torch.nn.Module):
            before = part._hf_hook.pre_forward
            part._hf_hook.pre_forward = lambda module, *args, before=before, name=name, **kwargs: (
                order.append(name), before(module, *args, **kwargs))[1]
    result = narrow(PICTURE, num_inference_steps=2, generator=seeded())
    step = ["multiview", "autoencoder", "reconstructor"]
    assert order == ["image_encoder", "autoencoder", "multiview", *step, *step]  # F sees its cameras first
    assert torch.equal(result.views, expected.views)


@torch.no_grad()
def test_weights_of_2d_convolutions_are_laid_out_channels_last(narrow, tmp_path):
    narrow.save_pretrained(tmp_path)
    loaded = Ouroboros3DPipeline.from_pretrained(tmp_path)
    assert loaded.multiview.unet.conv_in.weight.is_contiguous(memory_format=torch.channels_last)
    assert any(parameter.ndim == 5 for parameter in loaded.multiview.parameters())
    assert not any(module.training for module in (loaded.multiview, loaded.autoencoder, loaded.image_encoder))
