"""The pipeline: one image or several in, views and Gaussians out; plans, guidance, traces and callbacks."""

import math

import numpy as np
import pytest
import torch
from comparing import gap, seeded
from PIL import Image

from ouroboros_lib.cameras import Cameras, evenly_spaced_orbit
from ouroboros_lib.errors import InputError
from ouroboros_lib.noise import EDMNoise


def first_estimate(pipeline, picture, **options):
    """pred_x of the first step."""
    seen = []
    pipeline(picture, num_inference_steps=1, generator=seeded(), callback_on_step_end_tensor_inputs=("pred_x",),
             callback_on_step_end=lambda _, step, sigma, tensors: seen.append(tensors["pred_x"]), **options)
    return seen[0]


def test_same_generator_same_result(tiny, picture):
    a, b, c = (tiny(picture, num_inference_steps=2, generator=seeded(seed)) for seed in (1, 1, 2))
    assert torch.equal(a.views, b.views) and torch.equal(a.gaussians.means, b.gaussians.means)
    assert gap(a.views, c.views) > 1e-3
    assert a.views.shape == (1, tiny.num_views, 3, tiny.image_size, tiny.image_size)
    assert a.gaussians.shape == (1, tiny.num_views * (tiny.image_size // 2) ** 2)
    assert 0 <= a.views.min() and a.views.max() <= 1


def test_objects_of_a_batch_do_not_see_each_other(tiny, objects):
    """With a generator each, object 0 alone is object 0 among others, and the order does not matter."""
    pictures, elevations = objects.images[:, 0], torch.tensor([0.0, 10.0, 25.0])
    together = tiny(pictures, elevations, num_inference_steps=2, generator=[seeded(s) for s in range(3)])
    for i in (0, 2):
        alone = tiny(pictures[i:i + 1], elevations[i:i + 1], num_inference_steps=2, generator=[seeded(i)])
        assert gap(alone.views, together.views[i:i + 1]) < 1e-4
        assert gap(alone.gaussians.means, together.gaussians.means[i:i + 1]) < 1e-4
        assert gap(alone.renders.rgb, together.renders.rgb[i:i + 1]) < 1 / 255  # splats end where they fade below it
    assert gap(together.views[0], together.views[2]) > 1e-3


def test_kinds_of_feedback_differ_from_the_second_step_on(tiny, picture):
    def views(steps, plan):
        return tiny(picture, num_inference_steps=steps, generator=seeded(), plan=plan).views

    kinds = ("both", "rgb", "ccm", "none")
    once = {kind: views(1, f"feedback={kind}") for kind in kinds}
    assert all(torch.equal(once[kind], once["none"]) for kind in kinds)
    thrice = {kind: views(3, f"feedback={kind}") for kind in kinds}
    for a, b in (("both", "none"), ("rgb", "none"), ("ccm", "none"), ("rgb", "ccm"), ("both", "rgb"), ("both", "ccm")):
        assert gap(thrice[a], thrice[b]) > 1e-5, (a, b)
    assert torch.equal(views(3, "feedback=rgb+ccm"), thrice["both"])
    assert gap(views(3, "from_step=3"), thrice["none"]) < 1e-6
    assert gap(views(3, "from_step=2"), thrice["none"]) < 1e-6  # the last reconstruction has no next step
    late = views(3, "from_step=1")
    assert gap(late, thrice["none"]) > 1e-5 and gap(late, thrice["both"]) > 1e-5


@torch.no_grad()
def test_projection_steps_towards_the_render_of_the_estimate(tiny, picture):
    sigmas = tiny.scheduler.sigmas(2)
    once = tiny(picture, num_inference_steps=1, plan="two-stage", generator=seeded())
    noise = torch.randn(1, tiny.num_views, 8, 4, 4, generator=seeded())
    estimate = tiny.autoencoder.encode(once.renders.rgb.clamp(0, 1))
    expected = estimate + (noise * sigmas[0] - estimate) * (sigmas[1] / sigmas[0])
    for above, projected in ((0.0, True), (float(sigmas[0]), False)):
        seen = []
        tiny(picture, num_inference_steps=2, plan=f"projection,project_above={above}", generator=seeded(),
             callback_on_step_end=lambda _, step, sigma, tensors, seen=seen: seen.append(tensors["x_t"]))
        assert (gap(seen[0], expected) < 1e-4 * float(sigmas[0])) == projected
    views = {(kind, above): tiny(picture, num_inference_steps=3, plan=f"feedback={kind},project_above={above}",
                                 generator=seeded()).views for kind in ("both", "none") for above in ("inf", 0.1)}
    assert gap(views["both", 0.1], views["both", "inf"]) > 1e-5  # it combines with feedback
    assert gap(views["both", 0.1], views["none", 0.1]) > 1e-5
    first = {}
    for share in (0.0, 0.25, 1.0):
        tiny(picture, num_inference_steps=1, plan=f"project_above=0,project_share={share}", generator=seeded(),
             callback_on_step_end=lambda _, step, sigma, tensors, share=share: first.update({share: tensors["x_t"]}))
    torch.testing.assert_close(first[0.25], first[0.0].lerp(first[1.0], 0.25), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_the_input_can_be_kept_as_view_0(tiny, picture):
    """Of the returned views, of what G and so the feedback see, and of what the steps go towards."""
    last = {}

    def run(keep):
        return tiny(picture, num_inference_steps=2, plan=f"keep_input={keep}", generator=seeded(),
                    callback_on_step_end=lambda _, step, sigma, tensors: last.update({keep: tensors["x_t"]}))

    plain, kept = run(False), run(True)
    assert torch.equal(kept.views[:, 0], picture) and gap(plain.views[:, 0], picture) > 1e-3
    assert gap(kept.views[:, 1:], plain.views[:, 1:]) > 1e-5  # the second step saw it
    torch.testing.assert_close(last[True][:, 0], tiny.autoencoder.encode(picture))
    again = tiny.reconstruct(kept.views, kept.cameras, tiny.scheduler.sigmas(2)[1].expand(1))
    torch.testing.assert_close(kept.gaussians.colors, again.colors)


def test_steps_are_the_weights_own_unless_asked(tiny, picture):
    tiny.register_to_config(num_inference_steps=2)
    assert [len(tiny(picture, num_inference_steps=asked, return_trace=True).trace) for asked in (None, 1)] == [2, 1]


@pytest.mark.parametrize("plan", ["paper", "two-stage"])
def test_trace_has_every_step_and_changes_nothing(tiny, objects, plan):
    options = {"num_inference_steps": 3, "plan": plan}
    result = tiny(objects.images[:2, 0], generator=seeded(), return_trace=True, **options)
    sigmas = [step.sigma for step in result.trace]
    torch.testing.assert_close(torch.tensor(sigmas), tiny.scheduler.sigmas(3)[:3])
    assert sigmas == sorted(sigmas, reverse=True) and len(set(sigmas)) == 3
    for step in result.trace:
        assert step.ccm.shape == result.views.shape and step.ccm.isfinite().all()
        for images in (step.noisy, step.views, step.rgb):
            assert images.shape == result.views.shape and 0 <= images.min() and images.max() <= 1
        assert torch.equal(tiny.render(step.gaussians, result.cameras).rgb.clamp(0, 1), step.rgb)
    assert torch.equal(result.trace[-1].views, result.views)
    assert torch.equal(result.trace[-1].rgb, result.renders.rgb.clamp(0, 1))
    some = tiny(objects.images[:2, 0], generator=seeded(), return_trace=[0, 2], **options)
    assert [step.index for step in some.trace] == [0, 2] and torch.equal(some.trace[1].rgb, result.trace[2].rgb)
    plain = tiny(objects.images[:2, 0], generator=seeded(), **options)
    assert torch.equal(plain.views, result.views) and torch.equal(plain.renders.rgb, result.renders.rgb)


def test_callback_sees_every_step_and_may_change_the_noisy_latents(tiny, picture):
    seen = []

    def look(pipeline, step, sigma, tensors):
        seen.append((pipeline, step, float(sigma), {name: value.shape for name, value in tensors.items()}))

    plain = tiny(picture, num_inference_steps=2, generator=seeded())
    watched = tiny(picture, num_inference_steps=2, generator=seeded(), callback_on_step_end=look,
                   callback_on_step_end_tensor_inputs=("x_t", "pred_x", "pred_i"))
    assert torch.equal(plain.views, watched.views)
    assert [entry[:3] for entry in seen] == [(tiny, i, s) for i, s in enumerate(tiny.scheduler.sigmas(2)[:2].tolist())]
    latents = (1, tiny.num_views, 8, 4, 4)
    assert all(entry[3] == {"x_t": latents, "pred_x": latents, "pred_i": plain.views.shape} for entry in seen)

    changed = tiny(picture, num_inference_steps=2, generator=seeded(),
                   callback_on_step_end=lambda p, step, sigma, tensors: {"x_t": tensors["x_t"] + 1})
    assert gap(changed.views, plain.views) > 1e-3


@torch.no_grad()
def test_guidance(tiny, picture):
    guided = {scale: first_estimate(tiny, picture, guidance_scale=scale) for scale in (1.0, 0.0, 2.0, (1.0, 3.0))}
    plain = first_estimate(tiny, picture)
    assert torch.equal(plain, guided[1.0]) and torch.equal(plain, first_estimate(tiny, picture, guidance_scale=(1, 1)))
    direction = guided[1.0] - guided[0.0]  # conditional minus unconditional
    assert direction.abs().max() > 1e-3
    torch.testing.assert_close(guided[2.0], guided[0.0] + 2 * direction, atol=1e-4, rtol=1e-4)
    scales = torch.linspace(1, 3, tiny.num_views)[:, None, None, None]
    torch.testing.assert_close(guided[1.0, 3.0], guided[0.0] + scales * direction, atol=1e-4, rtol=1e-4)
    # the unconditional estimate knows nothing of the picture
    torch.testing.assert_close(first_estimate(tiny, 1 - picture, guidance_scale=0.0), guided[0.0], atol=1e-5, rtol=0)


def test_cameras_instead_of_the_orbit(tiny, picture):
    orbit = evenly_spaced_orbit(tiny.num_views, 15.0)
    by_elevation = tiny(picture, 15.0, num_inference_steps=1, generator=seeded())
    by_cameras = tiny(picture, cameras=orbit, num_inference_steps=1, generator=seeded())
    assert torch.equal(by_elevation.views, by_cameras.views)
    assert by_cameras.cameras.shape == (1, tiny.num_views)
    two = tiny(picture, cameras=Cameras(orbit.c2w[None, :2], orbit.intrinsics[None, :2]), num_inference_steps=1)
    assert two.views.shape[1] == two.renders.rgb.shape[1] == 2


def test_one_picture_of_any_kind_gives_what_its_tensor_gives(tiny, picture, tmp_path, caplog):
    pixels = (picture[0].movedim(0, -1) * 255).round().byte().numpy()
    image = Image.fromarray(pixels)
    image.save(tmp_path / "framed.png")

    def views(images):
        return tiny(images, num_inference_steps=1, generator=seeded()).views
    exact = views(torch.from_numpy(pixels).movedim(-1, 0)[None] / 255)
    for images in (image, tmp_path / "framed.png", str(tmp_path / "framed.png"), pixels, [image]):
        assert torch.equal(views(images), exact), type(images)
    assert not caplog.messages


def test_output_types(tiny, picture):
    def run(**options):
        return tiny(picture, num_inference_steps=1, generator=seeded(), **options)

    plain, arrays, pictures = run(), run(output_type="np"), run(output_type="pil")
    assert torch.equal(plain.input, picture)
    assert np.array_equal(arrays.views, plain.views.movedim(-3, -1).numpy()) and arrays.views.dtype == np.float32
    assert np.abs(np.asarray(pictures.views[0][1]) / 255 - arrays.views[0, 1]).max() <= 0.51 / 255
    views, gaussians, renders, cameras, shown = run(return_dict=False)
    assert torch.equal(views, plain.views) and torch.equal(gaussians.means, plain.gaussians.means)
    assert torch.equal(renders.rgb, plain.renders.rgb) and torch.equal(cameras.c2w, plain.cameras.c2w)


@pytest.mark.parametrize("options, message", [
    ({"plan": "feedback=depth"}, "unknown feedback 'depth': expected both, none, or some of rgb, ccm joined by"),
    ({"plan": "clam"}, "plan 'clam': expected one of paper, calm, two-stage, projection"),
    ({"num_inference_steps": 0}, "num_inference_steps: expected a whole number of at least 1, got 0"),
    ({"num_inference_steps": -3}, "got -3"),
    ({"num_inference_steps": 2.5}, "got 2.5"), ({"guidance_scale": math.nan}, "guidance_scale: expected a number"),
    ({"guidance_scale": (1, math.inf)}, "expected a number, got inf"), ({"elevation": math.nan}, "not finite numbers"),
    ({"cameras": evenly_spaced_orbit(4, torch.tensor([math.inf]))}, "cameras that are not finite numbers"),
    ({"images": []}, "no image"),
    ({"images": None}, "expected a path, a PIL picture, an array .* got NoneType"),
    ({"output_type": "latent"}, "unknown output_type 'latent': expected one of pt, np, pil"),
    ({"callback_on_step_end_tensor_inputs": ("latents",)}, "inputs: 'latents': expected some of x_t, pred_x, pred_i"),
    ({"elevation": "auto"}, "elevation='auto': expected degrees, a number or one for each picture; pipe.estimate"),
    ({"elevation": torch.zeros(3)}, r"1 pictures, but elevations or cameras of shape \(3,\): expected one for each or"),
])
def test_unfit_arguments(tiny, picture, options, message):
    with pytest.raises(InputError, match=message) as caught:
        tiny(**({"images": picture} | options))
    assert "\n" not in str(caught.value)


def test_compiled_models_give_the_same(tiny, picture):
    """With the backend "eager" torch.compile traces the models and computes as before, so nothing may change."""
    def run():
        return tiny(picture, num_inference_steps=2, generator=torch.Generator().manual_seed(0))

    before = run()
    calls = []
    tiny.compile(backend=lambda graph, _: calls.append(1) or graph)
    after = run()
    assert len(calls) >= 3  # F, the decoder, G
    torch.testing.assert_close(after.views, before.views, atol=1e-5, rtol=0)
    torch.testing.assert_close(after.renders.ccm, before.renders.ccm, atol=1e-3, rtol=0)


def test_renewed_noise_belongs_to_the_generator_and_the_scheduler_says_how_much(tiny, picture):
    def run(eta):
        tiny.register_modules(scheduler=EDMNoise.from_config(tiny.scheduler.config, eta=eta))
        return tiny(picture, num_inference_steps=3, generator=seeded()).views

    euler, renewed = run(0.0), run(1.0)
    assert gap(euler, renewed) > 1e-4 and torch.equal(renewed, run(1.0)) and torch.equal(euler, run(0.0))
    with pytest.raises(InputError, match="eta: expected a number from 0 to 1, got 1.5"):
        EDMNoise(eta=1.5)
