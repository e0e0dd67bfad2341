"""Algorithm 2: the recursion as a pipeline, from one image (or several) to views and Gaussians."""

import json
import shutil
import subprocess
import sys

import pytest
import torch
from PIL import Image

from ouroboros_lib import benchmark
from ouroboros_lib.cameras import Cameras, evenly_spaced_orbit
from ouroboros_lib.errors import InputError
from ouroboros_lib.models.feedback import FEEDBACKS, render_feedback
from ouroboros_lib.noise import c_noise, denoise
from ouroboros_lib.pipeline import Ouroboros3DPipeline


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def gap(a, b):
    return float((a - b).abs().max())


def first_estimate(pipeline, picture, **options):
    """pred_x of the first step."""
    seen = []
    pipeline(picture, num_inference_steps=1, generator=seeded(), callback_on_step_end_tensor_inputs=("pred_x",),
             callback_on_step_end=lambda _, step, sigma, tensors: seen.append(tensors["pred_x"]), **options)
    return seen[0]


@torch.no_grad()
def test_it_is_algorithm_2(tiny, objects):
    """The paper's lines by hand, with the library's parts, against the pipeline."""
    steps, picture = 3, objects.images[:2, 0]
    cameras = evenly_spaced_orbit(tiny.num_views, torch.tensor([5.0, 20.0]))
    cond = tiny.autoencoder.encode(picture)
    sigmas = tiny.scheduler.sigmas(steps)
    x_t = torch.randn(2, tiny.num_views, *cond.shape[1:], generator=seeded(3)) * sigmas[0]
    self_cond = None
    for sigma, sigma_next in zip(sigmas[:-1], sigmas[1:], strict=True):
        pred_x = denoise(tiny.multiview, x_t, sigma.expand(2), cond, cameras, self_cond)  # line 3
        pred_i = tiny.autoencoder.decode(pred_x).clamp(0, 1)  # line 4
        level = torch.clamp(sigma, min=tiny.config.reconstructor_sigma_min)
        gaussians = tiny.reconstructor(pred_i, cameras, c_noise(level.expand(2)))  # line 5
        self_cond = render_feedback(gaussians, cameras, tiny.image_size)
        x_t = pred_x + (x_t - pred_x) * (sigma_next / sigma)  # line 6: Euler's step

    result = tiny(picture, elevation=torch.tensor([5.0, 20.0]), num_inference_steps=steps, generator=seeded(3))
    assert gap(result.views, pred_i) < 1e-5
    assert gap(result.gaussians.means, gaussians.means) < 1e-5
    for name in ("rgb", "ccm", "alpha"):
        differs = (getattr(result.renders, name) - getattr(self_cond, name)).abs() > 1e-5
        assert differs.float().mean() < 1e-3  # last digits decide which of two splats at one depth comes first
    assert gap(result.cameras.c2w, cameras.c2w) == 0 and result.trace is None


def test_pictures_are_not_squashed(tiny):
    with pytest.raises(InputError, match="a picture of 40 x 20 pixels would be squashed to a square: frame the object"):
        tiny([Image.new("RGB", (40, 20))], num_inference_steps=1)


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
    def views(steps, **options):
        return tiny(picture, num_inference_steps=steps, generator=seeded(), **options).views

    once = {kind: views(1, feedback=kind) for kind in FEEDBACKS}
    assert all(torch.equal(once[kind], once["none"]) for kind in FEEDBACKS)
    thrice = {kind: views(3, feedback=kind) for kind in FEEDBACKS}
    for a, b in (("both", "none"), ("rgb", "none"), ("ccm", "none"), ("rgb", "ccm"), ("both", "rgb"), ("both", "ccm")):
        assert gap(thrice[a], thrice[b]) > 1e-5, (a, b)
    assert torch.equal(views(3, feedback_from_step=3), thrice["none"])
    assert torch.equal(views(3, feedback_from_step=2), thrice["none"])  # the last reconstruction has no next step
    late = views(3, feedback_from_step=1)
    assert gap(late, thrice["none"]) > 1e-5 and gap(late, thrice["both"]) > 1e-5


@torch.no_grad()
def test_a_share_of_the_steps_feeds_back(tiny, picture, monkeypatch):
    """Evenly spread; F has no feedback after the others, and G does not run for them."""
    seen, estimate, reconstruct = [], tiny.estimate, tiny.reconstruct
    monkeypatch.setattr(tiny, "estimate", lambda *inputs: seen.append("fed" if inputs[4] else "F") or estimate(*inputs))
    monkeypatch.setattr(tiny, "reconstruct", lambda *inputs: seen.append("G") or reconstruct(*inputs))
    turns = {}
    for share in (0.0, 0.5, 0.75, 1.0):
        tiny(picture, num_inference_steps=5, feedback_share=share, generator=seeded())
        turns[share], seen[:] = " ".join(seen), []
    assert turns == {0.0: "F F F F F G", 0.5: "F F G fed F G fed G", 0.75: "F F G fed G fed G fed G",
                     1.0: "F G fed G fed G fed G fed G"}
    with pytest.raises(InputError, match="feedback_share must lie between 0 and 1, got -1"):
        tiny(picture, feedback_share=-1.0)


@torch.no_grad()
def test_projection_steps_towards_the_render_of_the_estimate(tiny, picture):
    sigmas = tiny.scheduler.sigmas(2)
    once = tiny(picture, num_inference_steps=1, feedback="none", generator=seeded())
    noise = torch.randn(1, tiny.num_views, 8, 4, 4, generator=seeded())
    estimate = tiny.autoencoder.encode(once.renders.rgb.clamp(0, 1))
    expected = estimate + (noise * sigmas[0] - estimate) * (sigmas[1] / sigmas[0])
    for above, projected in ((0.0, True), (float(sigmas[0]), False)):
        seen = []
        tiny(picture, num_inference_steps=2, feedback="none", project_above=above, generator=seeded(),
             callback_on_step_end=lambda _, step, sigma, tensors, seen=seen: seen.append(tensors["x_t"]))
        assert (gap(seen[0], expected) < 1e-4 * float(sigmas[0])) == projected
    views = {(kind, above): tiny(picture, num_inference_steps=3, feedback=kind, project_above=above,
                                 generator=seeded()).views for kind in ("both", "none") for above in (None, 0.1)}
    assert gap(views["both", 0.1], views["both", None]) > 1e-5  # it combines with feedback
    assert gap(views["both", 0.1], views["none", 0.1]) > 1e-5
    first = {}
    for share in (0.0, 0.25, 1.0):
        tiny(picture, num_inference_steps=1, project_above=0.0, project_share=share, generator=seeded(),
             callback_on_step_end=lambda _, step, sigma, tensors, share=share: first.update({share: tensors["x_t"]}))
    torch.testing.assert_close(first[0.25], first[0.0].lerp(first[1.0], 0.25), rtol=1e-4, atol=1e-4)
    with pytest.raises(InputError, match="project_share must lie between 0 and 1, got 1.5"):
        tiny(picture, project_share=1.5)


@torch.no_grad()
def test_the_input_can_be_kept_as_view_0(tiny, picture):
    """Of the returned views, of what G and so the feedback see, and of what the steps go towards."""
    last = {}
    plain, kept = (tiny(picture, num_inference_steps=2, keep_input=keep, generator=seeded(), callback_on_step_end=(
        lambda _, step, sigma, tensors, keep=keep: last.update({keep: tensors["x_t"]}))) for keep in (False, True))
    assert torch.equal(kept.views[:, 0], picture) and gap(plain.views[:, 0], picture) > 1e-3
    assert gap(kept.views[:, 1:], plain.views[:, 1:]) > 1e-5  # the second step saw it
    torch.testing.assert_close(last[True][:, 0], tiny.autoencoder.encode(picture))
    again = tiny.reconstruct(kept.views, kept.cameras, tiny.scheduler.sigmas(2)[1].expand(1))
    torch.testing.assert_close(kept.gaussians.colors, again.colors)


@torch.no_grad()
def test_the_feedback_scale_moves_estimates_between_those_with_and_without_feedback(tiny, picture):
    x_t, sigma = torch.randn(1, tiny.num_views, 8, 4, 4, generator=seeded()), torch.tensor([2.0])
    condition, _ = tiny.encode_condition(picture)
    cameras = evenly_spaced_orbit(tiny.num_views, torch.tensor([10.0]))
    maps = tiny(picture, num_inference_steps=1, generator=seeded()).renders
    for guidance in (None, torch.full((1, tiny.num_views, 1, 1, 1), 1.5)):
        unfed, fed, plain, half, double = (
            tiny.estimate(x_t, sigma, condition, cameras, seen, guidance, feedback_scale=scale)
            for seen, scale in ((None, 3.0), (maps, 1.0), (maps, 1.0), (maps, 0.5), (maps, 2.0)))
        assert gap(fed, unfed) > 1e-3 and torch.equal(plain, fed)
        torch.testing.assert_close(half, (unfed + fed) / 2, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(double, 2 * fed - unfed, rtol=1e-4, atol=1e-5)
    once = {scale: tiny(picture, num_inference_steps=2, feedback_scale=scale, generator=seeded()).views
            for scale in (0.0, 1.0)}
    assert gap(once[0.0], tiny(picture, num_inference_steps=2, feedback="none", generator=seeded()).views) < 1e-5
    assert gap(once[1.0], once[0.0]) > 1e-5


@pytest.mark.parametrize("feedback", ["both", "none"])
def test_trace_has_every_step_and_changes_nothing(tiny, objects, feedback):
    options = {"num_inference_steps": 3, "feedback": feedback}
    result = tiny(objects.images[:2, 0], generator=seeded(), return_trace=True, **options)
    sigmas = [step.sigma for step in result.trace]
    torch.testing.assert_close(torch.tensor(sigmas), tiny.scheduler.sigmas(3)[:3])
    assert sigmas == sorted(sigmas, reverse=True) and len(set(sigmas)) == 3
    for step in result.trace:
        assert step.ccm.shape == result.views.shape and step.ccm.isfinite().all()
        for images in (step.noisy, step.views, step.rgb):
            assert images.shape == result.views.shape and 0 <= images.min() and images.max() <= 1
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


def test_pictures_of_pil_are_resized_and_laid_on_white(tiny, picture):
    pixels = (picture[0].movedim(0, -1) * 255).round().byte()
    exact = tiny(pixels.movedim(-1, 0)[None] / 255, num_inference_steps=1, generator=seeded()).views
    image = Image.fromarray(pixels.numpy())
    assert gap(tiny([image], num_inference_steps=1, generator=seeded()).views, exact) < 1e-5
    clear = Image.new("RGBA", (50, 50), (255, 0, 0, 0))
    white = torch.ones(2, 3, tiny.image_size, tiny.image_size)
    result = tiny([clear, clear], num_inference_steps=1, generator=seeded())
    assert torch.equal(result.views, tiny(white, num_inference_steps=1, generator=seeded()).views)


@pytest.mark.parametrize("options, message", [
    ({"feedback": "depth"}, "unknown feedback 'depth': expected one of both, rgb, ccm, none"),
    ({"num_inference_steps": 0}, "number of steps must be at least 1, got 0"),
    ({"num_inference_steps": -3}, "got -3"),
    ({"images": torch.ones(1, 3, 64, 64)}, r"images must be \(B, 3, 32, 32\), got \(1, 3, 64, 64\)"),
    ({"images": torch.ones(3, 32, 32)}, r"got \(3, 32, 32\)"),
    ({"images": []}, "no image"),
])
def test_unfit_arguments(tiny, picture, options, message):
    with pytest.raises(InputError, match=message) as caught:
        tiny(**({"images": picture} | options))
    assert "\n" not in str(caught.value)


# --- folders ---

@pytest.fixture(scope="module")
def folder(_tiny, tmp_path_factory):
    path = tmp_path_factory.mktemp("saved") / "pipeline"
    _tiny.save_pretrained(path)
    return path


def test_a_saved_folder_loads_in_a_fresh_process(tiny, picture, folder, tmp_path):
    """Nothing but the pipeline's module is imported there."""
    torch.save(picture, tmp_path / "picture.pt")
    program = ("import sys, torch\n"
               "from ouroboros_lib.pipeline import Ouroboros3DPipeline\n"
               "pipeline = Ouroboros3DPipeline.from_pretrained(sys.argv[1])\n"
               "out = pipeline(torch.load(sys.argv[2]), num_inference_steps=2,"
               " generator=torch.Generator().manual_seed(4))\n"
               "torch.save((out.views, out.gaussians.means, dict(pipeline.config)), sys.argv[3])\n")
    subprocess.run([sys.executable, "-c", program, folder, tmp_path / "picture.pt", tmp_path / "out.pt"], check=True,
                   capture_output=True)
    views, means, config = torch.load(tmp_path / "out.pt", weights_only=False)
    here = tiny(picture, num_inference_steps=2, generator=seeded(4))
    assert gap(views, here.views) < 1e-4 and gap(means, here.gaussians.means) < 1e-4
    assert (config["image_size"], config["num_views"]) == (tiny.image_size, tiny.num_views)


def test_settings_and_half_precision_weights_come_back(tiny, folder, tmp_path):
    tiny.register_to_config(reconstructor_sigma_min=2.5, coordinate_map="released")
    for name in ("autoencoder", "multiview", "reconstructor"):
        getattr(tiny, name).half()
    tiny.save_pretrained(tmp_path / "half")
    loaded = Ouroboros3DPipeline.from_pretrained(tmp_path / "half")
    assert loaded.config.coordinate_map == "released"
    assert loaded.config.reconstructor_sigma_min == 2.5 and loaded.multiview.dtype == torch.float32
    assert not loaded.multiview.training
    for key, value in tiny.multiview.state_dict().items():
        assert torch.equal(loaded.multiview.state_dict()[key], value.float())
    assert Ouroboros3DPipeline.from_pretrained(folder, torch_dtype=torch.float16).multiview.dtype == torch.float16


def truncate(folder):
    weights = folder / "multiview" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])


def empty(folder):
    (folder / "reconstructor" / "diffusion_pytorch_model.safetensors").write_bytes(b"")


def remove(folder):
    (folder / "autoencoder" / "diffusion_pytorch_model.safetensors").unlink()


def other_shapes(folder):
    config = folder / "multiview" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"channels": [48, 64]}))


def other_names(folder):
    shutil.copy(folder / "autoencoder" / "diffusion_pytorch_model.safetensors", folder / "reconstructor")


def surplus_layers(folder):
    config = folder / "multiview" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"depth": 3}))


def garbage_config(folder):
    (folder / "reconstructor" / "config.json").write_text("{ not JSON")


def garbage_index(folder):
    (folder / "model_index.json").write_text("\x00\x01 neither")


def list_as_index(folder):
    (folder / "model_index.json").write_text("[1, 2]")


def foreign_pipeline(folder):
    index = folder / "model_index.json"
    index.write_text(json.dumps({"_class_name": "DDPMPipeline", "unet": ["diffusers", "UNet2DModel"],
                                 "scheduler": ["diffusers", "DDPMScheduler"]}))


def no_index(folder):
    (folder / "model_index.json").unlink()


DAMAGE = [truncate, empty, remove, other_shapes, other_names, surplus_layers, garbage_config, garbage_index,
          list_as_index, foreign_pipeline, no_index]


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda function: function.__name__)
def test_damaged_or_foreign_weights(folder, tmp_path, damage):
    copy = tmp_path / "weights"
    shutil.copytree(folder, copy)
    damage(copy)
    with pytest.raises(InputError) as caught:
        Ouroboros3DPipeline.from_pretrained(copy)
    message = str(caught.value)
    assert message.startswith(f"{copy}: ") and "\n" not in message


def test_names_that_are_nothing(tmp_path, monkeypatch):
    with pytest.raises(InputError, match="neither a preset .* nor a folder nor a hub id"):
        Ouroboros3DPipeline.from_pretrained("smal")
    with pytest.raises(InputError, match="neither a preset"):
        Ouroboros3DPipeline.from_pretrained(tmp_path / "not" / "there")
    with pytest.raises(InputError, match="unknown preset"):
        Ouroboros3DPipeline.from_preset("huge")


def test_tiny_is_always_the_same():
    a, b = (Ouroboros3DPipeline.from_pretrained("tiny") for _ in range(2))
    assert all(torch.equal(x, y) for x, y in zip(a.reconstructor.parameters(), b.reconstructor.parameters(),
                                                 strict=True))


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


def test_the_benchmark_times_every_mode_and_batch(monkeypatch, capsys):
    monkeypatch.setattr(benchmark, "RUNS", 1)
    benchmark.main(["tiny", "--steps", "1", "--batches", "1,2", "--modes", "eager,bf16", "--device", "cpu"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[::2]] == ["eager"] * 4 + ["bf16"] * 4
    for line, parts in zip(lines[::2], lines[1::2], strict=True):
        seconds = [float(part.split()[1]) for part in parts.removeprefix("    of which ").split(", ")]
        assert len(seconds) == 4 and min(seconds) > 0 and float(line.split()[5]) > 0
    with pytest.raises(SystemExit):
        benchmark.main(["tiny", "--modes", "fast"])


def test_renewed_noise_belongs_to_the_generator_and_the_scheduler_says_how_much(tiny, picture):
    def run(**arguments):
        return tiny(picture, num_inference_steps=3, generator=seeded(), **arguments).views

    euler, renewed = run(), run(eta=1.0)
    assert gap(euler, renewed) > 1e-4 and torch.equal(renewed, run(eta=1.0)) and torch.equal(euler, run(eta=0.0))
    tiny.scheduler.register_to_config(eta=1.0)
    assert torch.equal(run(), renewed)
    with pytest.raises(InputError, match="eta must lie between 0 and 1"):
        run(eta=1.5)
