"""Algorithm 1: which loss reaches which module; the loop, its checkpoints and what it exports."""

import copy
import json
import math
import shutil
import subprocess
import sys
import time

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file

from ouroboros_lib.cameras import Cameras, evenly_spaced_orbit
from ouroboros_lib.data import ring as ring_module
from ouroboros_lib.data.batches import held_out_objects
from ouroboros_lib.data.buffer import ObjectBuffer
from ouroboros_lib.data.procedural import sample_objects
from ouroboros_lib.errors import InputError
from ouroboros_lib.models.feedback import COORDINATE_MAPS, FEEDBACKS, render_feedback
from ouroboros_lib.models.multiview import MultiviewUNet
from ouroboros_lib.noise import c_noise, denoise
from ouroboros_lib.pipeline import Ouroboros3DPipeline
from ouroboros_lib.training import TrainingConfig, benchmark, loop, train
from ouroboros_lib.training.fast.step import (
    autoencoder_losses,
    drop_conditions,
    joint_losses,
    multiview_losses,
    reconstructor_losses,
)
from ouroboros_lib.training.loop import initial_pipeline, learning_rate_factor, save_pipeline

# --- gradients reach exactly the modules they should ---


def reached(loss, module):
    """Names of the parameters that `loss` has a gradient in."""
    if not loss.requires_grad:
        return set()
    named = dict(module.named_parameters())
    gradients = torch.autograd.grad(loss, named.values(), retain_graph=True, allow_unused=True)
    return {name for name, g in zip(named, gradients, strict=True) if g is not None and g.abs().max() > 0}


def everything(module):
    return {name for name, _ in module.named_parameters()}


def joint(pipeline, batch, seed=0, **settings):
    """loss_mv and loss_recon of Algorithm 1, with the same random numbers for the same seed."""
    config = TrainingConfig(**{"reconstruction_batch": 2, "condition_dropout": 0.0} | settings)
    torch.manual_seed(seed)
    losses = joint_losses(pipeline.multiview, pipeline.reconstructor, pipeline.autoencoder.decode, pipeline.scheduler,
                          batch, config)
    return losses["multiview"], losses["reconstruction"]


def test_each_loss_reaches_its_own_module(tiny, objects):
    loss_mv, loss_recon = joint(tiny, objects)
    f, g, vae = tiny.multiview, tiny.reconstructor, tiny.autoencoder
    assert reached(loss_mv, f) == everything(f)  # cameras and both feedback encoders among them
    assert {name.split(".")[0] for name in everything(f)} >= {"cameras_down", "cameras_up", "feedback_encoders"}
    assert reached(loss_mv, g) == set()
    assert reached(loss_recon, g) == everything(g)
    assert reached(loss_recon, f) == set()
    assert reached(loss_mv, vae) == reached(loss_recon, vae) == set()


def test_through_the_renders_if_they_are_not_detached(tiny, objects):
    loss_mv, loss_recon = joint(tiny, objects, detach_feedback=False)
    assert reached(loss_mv, tiny.reconstructor) == everything(tiny.reconstructor)
    assert reached(loss_mv, tiny.multiview) == everything(tiny.multiview)
    assert reached(loss_recon, tiny.multiview) == set()


def test_through_the_decoder_if_asked_for(tiny, objects):
    tiny.autoencoder.requires_grad_(False)  # as in the loop
    loss_mv, loss_recon = joint(tiny, objects, decoder_gradient=True)
    # the first pass sees zero maps: nothing to learn for the weights that multiply them
    blind = {f"feedback_encoders.{name}.embed.weight" for name in ("rgb", "ccm")}
    assert reached(loss_recon, tiny.multiview) == everything(tiny.multiview) - blind
    assert reached(loss_recon, tiny.reconstructor) == everything(tiny.reconstructor)
    assert reached(loss_mv, tiny.reconstructor) == set()


@pytest.mark.parametrize(("settings", "at_once"), [
    ({}, True), ({"detach_feedback": False}, False), ({"decoder_gradient": True}, False)])
def test_losses_may_go_back_one_after_the_other(tiny, objects, settings, at_once):
    """With the same gradients, and only where they share nothing of their graph."""
    tiny.autoencoder.requires_grad_(False)
    config = TrainingConfig(reconstruction_batch=2, **settings)
    parameters, gradients, gone = [*tiny.multiview.parameters(), *tiny.reconstructor.parameters()], [], []

    def backward(loss):
        loss.backward()
        gone.append(loss.item())

    for early in (None, backward):
        torch.manual_seed(0)
        losses = joint_losses(tiny.multiview, tiny.reconstructor, tiny.autoencoder.decode, tiny.scheduler, objects,
                              config, backward=early)
        assert [loss.requires_grad for loss in losses.values()] == 2 * [early is None or not at_once]
        if losses["multiview"].requires_grad:
            sum(losses.values()).backward()
        gradients.append([p.grad.clone() for p in parameters])
        for p in parameters:
            p.grad = None
    assert gone == ([losses[name].item() for name in ("reconstruction", "multiview")] if at_once else [])
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-4, atol=1e-6)


def test_without_joint_training_g_sees_clean_views_only(tiny, objects, perturb):
    other = copy.deepcopy(tiny)
    perturb(other.multiview, seed=9)
    for is_joint in (False, True):
        loss_mv, loss_recon = joint(tiny, objects, joint=is_joint)
        other_mv, other_recon = joint(other, objects, joint=is_joint)
        assert not torch.equal(loss_mv, other_mv)
        assert torch.equal(loss_recon, other_recon) == (not is_joint)
        assert reached(loss_recon, tiny.reconstructor) == everything(tiny.reconstructor)


def test_all_weights_learn_in_half_precision(tiny, objects):
    """Older torch keeps weights that were cast without gradient, for the first estimate, and gives them again."""
    with torch.autocast("cpu", torch.bfloat16):
        loss_mv, loss_recon = joint(tiny, objects)
    assert reached(loss_mv, tiny.multiview) == everything(tiny.multiview)
    assert reached(loss_recon, tiny.reconstructor) == everything(tiny.reconstructor)


def test_two_stages_look_at_no_first_estimate(tiny, objects, monkeypatch):
    """Not even at an empty batch of them, which attention on CUDA refuses."""
    seen = []
    tiny.multiview.register_forward_pre_hook(lambda module, arguments: seen.append(len(arguments[0])))
    joint(tiny, objects, joint=False, feedback="none")
    assert seen == [len(objects.rgba)]


@pytest.mark.parametrize(("settings", "told"), [
    ({"stage": "reconstructor"}, 0.002), ({"joint": False, "feedback": "none"}, 0.002), ({"stage": "joint"}, 5.0),
    ({"stage": "multiview"}, 0.002)])
def test_a_g_that_has_seen_clean_views_only_is_told_no_other_level(tiny, picture, tmp_path, settings, told):
    """Levels it has never met would make two stages look worse than they are. F alone leaves G as it was."""
    tiny.register_to_config(reconstructor_sigma_max=0.002)
    save_pipeline(tiny, tmp_path / "before")
    save_pipeline(initial_pipeline("tiny", [str(tmp_path / "before")], TrainingConfig(**settings)), tmp_path / "after")
    pipeline = Ouroboros3DPipeline.from_pretrained(tmp_path / "after")
    levels = []
    monitor = pipeline.reconstructor.register_forward_pre_hook(lambda module, arguments: levels.append(arguments[2]))
    pipeline.reconstruct(picture[:, None].expand(-1, pipeline.num_views, -1, -1, -1),
                         evenly_spaced_orbit(pipeline.num_views, torch.tensor([10.0])), torch.tensor([5.0]))
    monitor.remove()
    assert torch.allclose(levels[0].exp() ** 4, torch.tensor(told))


@pytest.mark.parametrize("feedback", ["none", "rgb", "ccm"])
def test_only_the_chosen_feedback_learns(tiny, objects, perturb, feedback):
    loss_mv, _ = joint(tiny, objects, feedback=feedback)  # an F with both encoders: the other one sees zeros
    embeds = {f"feedback_encoders.{name}.embed.weight": name in FEEDBACKS[feedback] for name in ("rgb", "ccm")}
    names = reached(loss_mv, tiny.multiview)
    assert {name: name in names for name in embeds} == embeds

    network = perturb(MultiviewUNet.from_config(tiny.multiview.config, feedback=feedback))
    tiny.register_modules(multiview=network)
    loss_mv, _ = joint(tiny, objects, feedback=feedback)
    assert set(network.feedback_encoders) == set(FEEDBACKS[feedback])
    assert reached(loss_mv, network) == everything(network)


def test_without_second_passes_f_never_sees_g(tiny, objects, perturb):
    other = copy.deepcopy(tiny)
    perturb(other.reconstructor, seed=9)
    for probability, is_same in ((0.0, True), (0.5, False)):
        losses = [joint(pipeline, objects, self_conditioning_probability=probability)[0] for pipeline in (tiny, other)]
        assert torch.equal(*losses) == is_same
    loss_mv, _ = joint(tiny, objects, self_conditioning_probability=0.0)
    blind = {f"feedback_encoders.{name}.embed.weight" for name in ("rgb", "ccm")}
    assert everything(tiny.multiview) - reached(loss_mv, tiny.multiview) == blind


@torch.no_grad()
def test_loss_mv_is_algorithm_1(tiny, objects):
    """With a second pass for every example, by hand from the paper's lines."""
    x, cameras = objects.latents, objects.orbit_cameras
    loss_mv, _ = joint(tiny, objects, seed=4, self_conditioning_probability=1.0)
    torch.manual_seed(4)
    sigma = tiny.scheduler.sample_sigma(3)
    noisy_x = x + sigma[:, None, None, None, None] * torch.randn_like(x)  # line 1
    pred_x = denoise(tiny.multiview, noisy_x, sigma, x[:, 0], cameras)  # line 2
    pred_i = tiny.autoencoder.decode(pred_x).clamp(0, 1)  # line 3
    gaussians = tiny.reconstructor(pred_i, cameras, c_noise(sigma))  # line 4
    self_cond = render_feedback(gaussians, cameras, tiny.image_size)
    pred_x = denoise(tiny.multiview, noisy_x, sigma, x[:, 0], cameras, self_cond)  # line 5
    weight = (1 + sigma**2) / sigma**2
    expected = (weight * ((pred_x - x) ** 2).mean((1, 2, 3, 4))).mean()  # line 6
    torch.testing.assert_close(loss_mv, expected, atol=1e-4, rtol=1e-4)


def test_the_stages_before(tiny, objects):
    config = TrainingConfig()
    losses = multiview_losses(tiny.multiview, tiny.scheduler, objects, config)
    blind = {f"feedback_encoders.{name}.embed.weight" for name in ("rgb", "ccm")}
    assert reached(losses["multiview"], tiny.multiview) == everything(tiny.multiview) - blind
    losses = reconstructor_losses(tiny.reconstructor, objects, config)
    assert reached(losses["reconstruction"], tiny.reconstructor) == everything(tiny.reconstructor)
    losses = autoencoder_losses(tiny.autoencoder, objects, TrainingConfig())
    encoder = {name for name in everything(tiny.autoencoder) if name.startswith("encoder")}
    assert reached(losses["reconstruction"], tiny.autoencoder) == everything(tiny.autoencoder)
    assert reached(losses["kl"], tiny.autoencoder) == encoder


def test_conditions_are_dropped_whole_and_as_often_as_told():
    torch.manual_seed(0)
    latents = torch.ones(2000, 8, 2, 2)
    kept = drop_conditions(latents, 0.25).flatten(1)
    assert ((kept == 0).all(1) | (kept == 1).all(1)).all()
    assert abs(float((kept == 0).all(1).float().mean()) - 0.25) < 0.04
    assert torch.equal(drop_conditions(latents, 0.0), latents)


def test_a_reconstructor_of_single_views_sees_no_other(tiny, objects):
    """Whatever the other orbit views show, what G makes of them stays the same; the loss compares with all of them."""
    seen = []
    tiny.reconstructor.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
    for single_view in (True, False):
        reconstructor_losses(tiny.reconstructor, objects, TrainingConfig(single_view=single_view))
    assert seen[0].shape == seen[1].shape
    assert (seen[0] == objects.orbit_images[:, :1]).all() and torch.equal(seen[1], objects.orbit_images)


def test_the_released_coordinate_map_is_fed_back_if_asked_for(tiny, objects, tmp_path):
    """Same renders, other maps: with the released ones F gets another condition, and the pipeline remembers it."""
    losses = [joint(tiny, objects, coordinate_map=name)[0] for name in COORDINATE_MAPS]
    assert losses[0] != losses[1]
    rgb_only = [joint(tiny, objects, coordinate_map=name, feedback="rgb")[0] for name in COORDINATE_MAPS]
    assert rgb_only[0] == rgb_only[1]
    tiny.register_to_config(coordinate_map="released")
    save_pipeline(tiny, tmp_path / "released")
    start = initial_pipeline("tiny", [f"multiview={tmp_path / 'released'}"], TrainingConfig(stage="multiview"))
    assert start.config.coordinate_map == "released"
    start = initial_pipeline("tiny", [str(tmp_path / "released")], TrainingConfig(stage="joint"))
    assert start.config.coordinate_map == "canonical"  # a joint run has its own setting


def test_the_attention_of_a_new_f_can_be_chosen(tiny, tmp_path):
    start = initial_pipeline("tiny", [], TrainingConfig(stage="multiview", view_attention="factorised"))
    assert start.multiview.config.view_attention == "factorised"
    save_pipeline(tiny, tmp_path / "joint")
    with pytest.raises(InputError, match="the F of --init has joint attention"):
        initial_pipeline("tiny", [str(tmp_path / "joint")], TrainingConfig(view_attention="factorised"))


# --- settings ---

def test_settings_from_text():
    config = TrainingConfig.from_settings(["stage=multiview", "steps=7", "learning_rate=1e-3", "joint=no",
                                           "detach_feedback=True", "feedback=ccm", "max_minutes=0.5"])
    assert (config.stage, config.steps, config.learning_rate, config.joint, config.detach_feedback, config.feedback,
            config.max_minutes) == ("multiview", 7, 1e-3, False, True, "ccm", 0.5)
    assert TrainingConfig.from_settings([]) == TrainingConfig()


@pytest.mark.parametrize("setting, message", [
    ("stepz=3", "--set stepz=3: expected key=value with one of these keys: stage, steps"),
    ("steps", "--set steps: expected key=value"),
    ("steps=many", "--set steps=many: 'many' is not a int"),
    ("steps=2.5", "'2.5' is not a int"),
    ("learning_rate=fast", "'fast' is not a float"),
    ("joint=maybe", "'maybe' is not a bool"),
    ("steps=0", "steps=0: must be at least 1"),
    ("batch_size=-1", "batch_size=-1: must be at least 1"),
    ("stage=everything", "stage='everything': expected one of autoencoder, reconstructor, multiview, joint"),
    ("feedback=depth", "feedback='depth': expected one of both, rgb, ccm, none"),
    ("mixed_precision=int4", "mixed_precision='int4': expected one of no, fp16, bf16"),
    ("condition_dropout=1.5", "condition_dropout=1.5: must lie between 0 and 1"),
    ("self_conditioning_probability=nan", "must lie between 0 and 1"),
])
def test_bad_settings(setting, message):
    with pytest.raises(InputError) as caught:
        TrainingConfig.from_settings([setting])
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_learning_rate_rises_and_falls():
    factors = [learning_rate_factor(step / 1000, warmup=0.1) for step in range(1001)]
    assert factors[0] < 0.02 and factors[-1] == pytest.approx(1e-4)
    top = max(range(1001), key=factors.__getitem__)
    assert 95 <= top <= 100 and 0.95 < factors[top] <= 1.001
    assert all(a < b for a, b in zip(factors[:top], factors[1:], strict=False))
    assert all(a > b for a, b in zip(factors[top:], factors[top + 1:], strict=False))
    assert factors[550] == pytest.approx(0.5 + 0.5 * math.cos(0.55 * math.pi) + 1e-4)
    assert learning_rate_factor(0.0, warmup=0.0) == pytest.approx(1.0001)


# --- the ring of objects ---

def small_ring(monkeypatch, **options):
    """Four objects, two at a time; also returns the list in which the numbers of rendered objects are noted."""
    numbers = []

    def note(split, indices, **rest):
        numbers.extend(indices.tolist())
        return sample_objects(split, indices, **rest)

    monkeypatch.setattr(ring_module, "sample_objects", note)
    ring = ObjectBuffer(16, 3, capacity=4, device="cpu", **{"novel_views": 1, "chunk": 2, "supersample": 1} | options)
    ring.fill()
    return ring, numbers


def test_same_seed_same_batch(monkeypatch):
    batches = []
    for seed in (1, 1, 2):
        ring = small_ring(monkeypatch, seed=seed)[0]
        torch.manual_seed(seed)  # which objects are drawn is up to the global generator, as the noise is
        batches.append(ring.batch(6))
    assert batches[0].rgba.shape == (6, 4, 4, 16, 16) and batches[0].cameras.shape == (6, 4)
    assert batches[0].orbit_images.shape == (6, 3, 3, 16, 16) and batches[0].orbit_cameras.shape == (6, 3)
    assert torch.equal(batches[0].rgba, batches[1].rgba)
    assert torch.equal(batches[0].cameras.c2w, batches[1].cameras.c2w)
    assert not torch.equal(batches[0].rgba, batches[2].rgba)
    assert 0 <= batches[0].images.min() and batches[0].images.max() <= 1 and batches[0].alpha.max() == 1


def test_processes_see_different_objects(monkeypatch):
    numbers = []
    for rank in range(2):
        ring, mine = small_ring(monkeypatch, rank=rank, world_size=2)
        ring.refresh()
        numbers.append(mine)
    assert sorted(numbers[0] + numbers[1]) == list(range(12))
    assert not set(numbers[0]) & set(numbers[1])


def test_refresh_replaces_the_oldest(monkeypatch):
    ring, numbers = small_ring(monkeypatch)
    assert len(ring) == 4 and numbers == [0, 1, 2, 3]
    for slots, others in ((slice(0, 2), slice(2, 4)), (slice(2, 4), slice(0, 2)), (slice(0, 2), slice(2, 4))):
        before = ring.rgba.clone(), ring.c2w.clone()
        ring.refresh()
        assert torch.equal(ring.rgba[others], before[0][others]) and torch.equal(ring.c2w[others], before[1][others])
        assert (ring.rgba[slots] != before[0][slots]).flatten(1).any(1).all() and len(ring) == 4
    assert numbers == list(range(10))


def test_a_restarted_ring_holds_the_same_objects_and_goes_on(monkeypatch):
    ring, _ = small_ring(monkeypatch)
    ring.refresh()
    again, numbers = small_ring(monkeypatch)
    numbers.clear()
    again.restart(ring.next)
    again.fill()
    again.refresh()
    assert numbers == [2, 3, 4, 5, 6, 7] and again.next == 8
    ring.refresh()
    assert torch.equal(again.rgba, ring.rgba) and torch.equal(again.c2w, ring.c2w)  # in the same slots


def test_latents_pictures_and_cameras_of_a_batch_belong_together(monkeypatch):
    ring, _ = small_ring(monkeypatch, encode=lambda images: images.mean((-1, -2), keepdim=True))
    ring.refresh()
    batch = ring.batch(8)
    torch.testing.assert_close(batch.latents, batch.orbit_images.mean((-1, -2), keepdim=True))
    for rgba, c2w in zip(batch.rgba, batch.cameras.c2w, strict=True):
        slot = (ring.rgba == rgba).flatten(1).all(1).nonzero()[0, 0]
        assert torch.equal(ring.c2w[slot], c2w)
    blind = ring.batch(8, images=False)
    assert blind.images.shape[1] == 0 and blind.latents.shape == batch.latents.shape
    assert blind.orbit_cameras.shape == (8, 3)


def test_held_out_objects_do_not_depend_on_where_a_batch_starts():
    four = held_out_objects("test", 4, 16, 3, novel_views=1)
    two = held_out_objects("test", 2, 16, 3, novel_views=1, start=2)
    assert torch.equal(two.rgba, four.rgba[2:]) and torch.equal(two.cameras.c2w, four.cameras.c2w[2:])
    other = held_out_objects("val", 2, 16, 3, novel_views=1, start=2)
    assert not torch.equal(other.rgba, two.rgba)
    chosen = four.select([2, 0])
    assert torch.equal(chosen.rgba, four.rgba[[2, 0]]) and torch.equal(chosen.cameras.c2w, four.cameras.c2w[[2, 0]])


# --- the loop ---

QUICK = {"batch_size": 2, "reconstruction_batch": 1, "objects": 4, "refresh_objects": 2, "refresh_every": 2,
         "novel_views": 1, "validation_objects": 1, "log_every": 1, "checkpoint_every": 0}


def quick(**settings):
    return TrainingConfig(**QUICK | settings)


def logged(out, name="step"):
    return [json.loads(line)[name] for line in (out / "log.jsonl").read_text().splitlines()]


def leftovers(out):
    return [path for pattern in ("*.partial*", "*.old") for path in out.rglob(pattern)]


@pytest.fixture
def trainers(monkeypatch):
    """The trainers of this test, in the order in which they were made."""
    made, build = [], loop._Trainer.__init__

    def note(self, *arguments):
        build(self, *arguments)
        made.append(self)

    monkeypatch.setattr(loop._Trainer, "__init__", note)
    return made


@pytest.fixture(scope="module")
def joint_run(tmp_path_factory):
    """A joint run of the command line, from random weights."""
    out = tmp_path_factory.mktemp("run") / "joint"
    settings = QUICK | {"steps": 24, "batch_size": 4, "reconstruction_batch": 4, "checkpoint_every": 12,
                        "reconstructor_learning_rate": 2e-3, "learning_rate": 2e-3}
    command = [sys.executable, "-m", "ouroboros_lib", "train", "--preset", "tiny", "--out", str(out)]
    command += [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    return out, subprocess.run(command, capture_output=True, text=True)


def test_command_line_trains_and_writes_everything(joint_run):
    out, run = joint_run
    assert run.returncode == 0, run.stderr
    figures = json.loads(run.stdout.splitlines()[-1])
    assert {"multiview", "reconstruction", "views 1+", "3D 1+", "self-consistency"} <= figures.keys()
    assert logged(out) == list(range(1, 25)) and logged(out, "samples")[-1] == 24 * 4
    assert [path.name for path in sorted(out.glob("checkpoint*"))] == ["checkpoint-0000012", "checkpoint-0000024"]
    assert (out / "samples" / "step_0000024.png").stat().st_size > 1000
    assert list(out.rglob("events.out.tfevents.*")) and not leftovers(out)
    result = Ouroboros3DPipeline.from_pretrained(out / "pipeline")(torch.rand(1, 3, 32, 32), num_inference_steps=1)
    assert result.views.isfinite().all()


def test_losses_fall(joint_run):
    losses = torch.tensor(logged(joint_run[0], "reconstruction"))
    assert losses[-8:].mean() < 0.8 * losses[:8].mean()


def test_an_interrupted_run_goes_on_from_its_last_whole_checkpoint(tmp_path, monkeypatch, trainers):
    """The disk fills up while the second checkpoint is written; --resume takes the first and does the same steps."""
    save, calls = Accelerator.save_state, []

    def fail_the_second_time(self, folder, *arguments, **options):
        calls.append(folder)
        save(self, folder, *arguments, **options)
        if len(calls) == 2:
            raise OSError("disk full")

    settings = {"stage": "reconstructor", "steps": 6, "checkpoint_every": 2}
    monkeypatch.setattr(Accelerator, "save_state", fail_the_second_time)
    with pytest.raises(OSError, match="disk full"):
        train("tiny", tmp_path, quick(**settings))
    assert loop.latest_checkpoint(tmp_path).name == "checkpoint-0000002"
    assert logged(tmp_path) == [1, 2, 3, 4] and not (tmp_path / "pipeline").exists()

    with pytest.raises(InputError, match="holds checkpoints of an earlier run; add --resume"):
        train("tiny", tmp_path, quick(**settings))

    losses, seen = loop._Trainer.losses, []

    def look(self, *arguments):
        seen.append((self.step, int(self.optimizers[0].optimizer.state_dict()["state"][0]["step"]),
                     self.ema["reconstructor"].optimization_step, self.seconds))
        return losses(self, *arguments)

    monkeypatch.setattr(loop._Trainer, "losses", look)
    train("tiny", tmp_path, quick(**settings), resume=True)
    assert [entry[:3] for entry in seen] == [(step, step, step) for step in (2, 3, 4, 5)]
    assert seen[0][3] > 0  # the clock went on as well
    assert logged(tmp_path) == [1, 2, 3, 4, 3, 4, 5, 6]
    names = [path.name for path in sorted(tmp_path.glob("checkpoint*"))]
    assert names == ["checkpoint-0000004", "checkpoint-0000006"] and not leftovers(tmp_path)
    assert trainers[-1].source.next == 10  # 4 to fill the ring and 2 after every second step, as without interruption
    assert trainers[-1].step == 6 and (tmp_path / "pipeline" / "model_index.json").is_file()


def test_a_resumed_run_ends_as_one_without_interruption(tmp_path):
    """Weights, optimizer, averages, objects, cameras and noise: the same to the bit."""
    settings = quick(steps=4, batch_size=4, objects=8, checkpoint_every=2)
    train("tiny", tmp_path / "whole", settings)
    shutil.copytree(tmp_path / "whole", tmp_path / "stopped")
    shutil.rmtree(tmp_path / "stopped" / "checkpoint-0000004")
    train("tiny", tmp_path / "stopped", settings, resume=True)
    for name in ("model.safetensors", "model_1.safetensors"):
        whole, stopped = (load_file(tmp_path / run / "checkpoint-0000004" / name) for run in ("whole", "stopped"))
        assert all(torch.equal(whole[key], stopped[key]) for key in whole)
    losses = logged(tmp_path / "stopped", "multiview")
    assert losses[2:4] == losses[4:6] and losses[:2] != losses[2:4]


def test_resume_brings_all_weights_back(tmp_path, monkeypatch, trainers):
    settings = {"stage": "reconstructor", "steps": 2, "checkpoint_every": 2, "ema_decay": 0.5}
    train("tiny", tmp_path, quick(**settings))
    train("tiny", tmp_path, quick(**settings), resume=True)  # all steps are done: nothing changes any more
    first, second = trainers
    for a, b in zip(first.pipeline.reconstructor.parameters(), second.pipeline.reconstructor.parameters(),
                    strict=True):
        assert torch.equal(a, b)
    for a, b in zip(first.ema["reconstructor"].shadow_params, second.ema["reconstructor"].shadow_params, strict=True):
        assert torch.equal(a, b)


def test_the_time_limit_ends_a_run_but_the_first_step_does_not_count(tmp_path, monkeypatch, trainers):
    losses = loop._Trainer.losses

    def slow_at_first(self, *arguments):
        time.sleep(0.0 if self.step else 2.0)
        return losses(self, *arguments)

    monkeypatch.setattr(loop._Trainer, "losses", slow_at_first)
    train("tiny", tmp_path, quick(stage="autoencoder", steps=10**6, max_minutes=1 / 60))
    assert trainers[0].step > 2 and 1 <= trainers[0].seconds < 2


def test_the_benchmark_times_every_part_of_a_step(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(benchmark, "RUNS", 1)
    trace = tmp_path / "trace.json"
    benchmark.main(["preset=tiny", f"trace={trace}", *(f"{key}={value}" for key, value in QUICK.items())])
    assert any("convolution" in str(event.get("name")) for event in json.loads(trace.read_text())["traceEvents"])
    *lines, rate = capsys.readouterr().out.splitlines()
    times = {line[:36].strip(): float(line[36:-3]) for line in lines}
    assert rate.endswith(" objects a second on 1 process(s)") and float(rate.split()[0]) > 0
    assert len(times) == 14 and all(value > 0 for value in times.values())
    assert times["a step with feedback for all"] > times["F, forward and backward"] > times["draw a batch"]


def test_resume_needs_a_checkpoint(tmp_path):
    with pytest.raises(InputError, match="--resume, but there is no checkpoint in it"):
        train("tiny", tmp_path / "new", quick(), resume=True)
    assert not (tmp_path / "new").exists()


def test_export_holds_averaged_weights_in_half_precision(tmp_path, trainers):
    save_pipeline(Ouroboros3DPipeline.from_preset("tiny", seed=8), tmp_path / "pipeline")  # an older one is replaced
    train("tiny", tmp_path, quick(stage="reconstructor", steps=3, ema_decay=0.6))
    trainer = trainers[0]
    path = tmp_path / "pipeline" / "reconstructor" / "diffusion_pytorch_model.safetensors"
    stored = load_file(path)
    assert {value.dtype for value in stored.values()} == {torch.float16} and not leftovers(tmp_path)
    named = dict(trainer.pipeline.reconstructor.named_parameters())
    averaged = dict(zip(named, trainer.ema["reconstructor"].shadow_params, strict=True))
    assert all(torch.equal(stored[name], averaged[name].half()) for name in named)
    assert any(not torch.equal(stored[name], named[name].half()) for name in named)
    loaded = Ouroboros3DPipeline.from_pretrained(tmp_path / "pipeline")
    assert loaded.reconstructor.dtype == torch.float32
    initial = Ouroboros3DPipeline.from_preset("tiny", seed=0)
    for a, b in zip(loaded.multiview.parameters(), initial.multiview.parameters(), strict=True):
        assert torch.equal(a, b.half().float())  # what is not trained stays


def test_autoencoder_stage_measures_its_latents(tmp_path, monkeypatch, objects):
    monkeypatch.setattr(ObjectBuffer, "batch", lambda self, size, images=True: objects)
    train("tiny", tmp_path, quick(stage="autoencoder", steps=2))
    latents = Ouroboros3DPipeline.from_pretrained(tmp_path / "pipeline").autoencoder.encode(objects.orbit_images)
    torch.testing.assert_close(latents.mean((0, 1, 3, 4)), torch.zeros(8), atol=0.02, rtol=0)
    torch.testing.assert_close(latents.transpose(1, 2).transpose(0, 1).flatten(1).std(1), torch.ones(8), atol=0.02,
                               rtol=0)


def test_the_decoder_can_be_polished_alone(tmp_path):
    train("tiny", tmp_path / "all", quick(stage="autoencoder", steps=1))
    before = Ouroboros3DPipeline.from_pretrained(tmp_path / "all" / "pipeline").autoencoder.state_dict()
    train("tiny", tmp_path / "polished", quick(stage="autoencoder", steps=2, train_encoder=False, ema_decay=0.1),
          init=[str(tmp_path / "all" / "pipeline")])
    after = Ouroboros3DPipeline.from_pretrained(tmp_path / "polished" / "pipeline").autoencoder.state_dict()
    assert not any(str(tmp_path) in path.read_text() for path in tmp_path.rglob("pipeline/**/*.json"))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed and all(name.startswith("decoder.") for name in changed)


def test_divergence_is_said(tmp_path, monkeypatch):
    losses = loop._Trainer.losses

    def spoil(self, *arguments):
        factor = float("nan") if self.step == 1 else 1
        return {name: value * factor for name, value in losses(self, *arguments).items()}

    monkeypatch.setattr(loop._Trainer, "losses", spoil)
    with pytest.raises(RuntimeError, match=r"training diverged at step 2 .*checkpoint-0000001; try a lower learning"):
        train("tiny", tmp_path, quick(stage="reconstructor", steps=4, checkpoint_every=1))
    # between two entries of the log, and still no checkpoint of spoiled weights
    with pytest.raises(RuntimeError, match=r"training diverged at step 2 .*the last good state is none"):
        train("tiny", tmp_path / "rare", quick(stage="reconstructor", steps=4, log_every=100, checkpoint_every=2))
    assert not list((tmp_path / "rare").glob("checkpoint*"))


# --- where a run starts ---

def test_init_replaces_components_and_later_ones_win(tiny, tmp_path):
    save_pipeline(tiny, tmp_path / "a")
    b = Ouroboros3DPipeline.from_preset("tiny", seed=5)
    save_pipeline(b, tmp_path / "b")
    start = initial_pipeline("tiny", [str(tmp_path / "a"), f"multiview={tmp_path / 'b'}"], TrainingConfig())
    for name, source in (("autoencoder", tiny), ("multiview", b), ("reconstructor", tiny)):
        state = getattr(start, name).state_dict()
        for key, value in getattr(source, name).state_dict().items():
            assert torch.equal(state[key], value.half().float()), (name, key)


@torch.no_grad()
@pytest.mark.parametrize("before, after", [("none", "both"), ("both", "rgb"), ("both", "none")])
def test_f_takes_its_weights_to_other_feedback(tiny, tmp_path, perturb, before, after):
    tiny.register_modules(multiview=perturb(MultiviewUNet.from_config(tiny.multiview.config, feedback=before)))
    save_pipeline(tiny, tmp_path / "a")
    start = initial_pipeline("tiny", [str(tmp_path / "a")], TrainingConfig(feedback=after)).multiview
    assert tuple(start.feedback_encoders) == FEEDBACKS[after] and start.config.feedback == after
    state, old = start.state_dict(), tiny.multiview.state_dict()
    assert all(torch.equal(state[key], old[key].half().float()) for key in state.keys() & old.keys())
    assert state.keys() - old.keys() == {key for key in state if before == "none" and "feedback_encoders" in key}
    if before == "none":  # new encoders start at zero
        assert all(not value.any() for key, value in state.items() if "feedback_encoders" in key and ".outs." in key)


@pytest.mark.parametrize("entry, message", [
    ("decoder={}", "unknown component 'decoder', expected autoencoder, multiview, reconstructor"),
    ("multiview={}/missing", "missing: neither a preset"),
    ("{}", "no model_index.json in it"),
])
def test_bad_init(tmp_path, entry, message):
    with pytest.raises(InputError, match=message):
        initial_pipeline("tiny", [entry.format(tmp_path)], TrainingConfig())


def test_init_of_another_size(tiny, tmp_path):
    """A model made for another image size would fail only later, deep inside."""
    tiny.multiview.register_to_config(image_size=64)
    save_pipeline(tiny, tmp_path / "a")
    with pytest.raises(InputError, match=r"--init .*multiview is for images of 64 pixels, the preset for 32"):
        initial_pipeline("tiny", [str(tmp_path / "a")], TrainingConfig())


def test_cameras_of_training_objects_lie_on_one_orbit():
    cameras = ring_module.object_cameras(5, 4, 3, torch.Generator().manual_seed(0))
    assert isinstance(cameras, Cameras) and cameras.shape == (5, 7)
    elevation = torch.rad2deg(torch.asin(cameras.positions[..., 1] / cameras.positions.norm(dim=-1)))
    assert (elevation[:, :4].std(1) < 1e-3).all() and (elevation >= -5.01).all() and (elevation <= 30.01).all()
    assert elevation[:, 0].std() > 1  # one each
