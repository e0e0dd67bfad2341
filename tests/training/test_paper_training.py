"""Training at the paper's scale, in miniature: SVD's conditions, rendered objects, and `narrow` through the loop."""

import copy
from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from ouroboros_lib.cameras import evenly_spaced_orbit, relative_to_first
from ouroboros_lib.data.batches import held_out_objects
from ouroboros_lib.data.folders import MultiviewObject, write_object
from ouroboros_lib.errors import InputError
from ouroboros_lib.evaluation.metrics import LPIPS_BACKBONES
from ouroboros_lib.models.feedback import render_feedback
from ouroboros_lib.noise import c_noise, denoise
from ouroboros_lib.paper.lgm import LGMReconstructor
from ouroboros_lib.pipeline import Ouroboros3DPipeline
from ouroboros_lib.presets import load_preset
from ouroboros_lib.rasterization import rasterize
from ouroboros_lib.training import TrainingConfig, train
from ouroboros_lib.training.conditions import Condition, noised_condition
from ouroboros_lib.training.data import RenderedObjects
from ouroboros_lib.training.fast.averages import WeightAverages
from ouroboros_lib.training.fast.step import joint_losses, multiview_losses, reconstruction_loss
from ouroboros_lib.training.initial import initial_pipeline
from ouroboros_lib.training.perceptual import perceptual_loss

NARROW = load_preset("narrow")
QUICK = {"batch_size": 2, "reconstruction_batch": 1, "validation_objects": 1, "log_every": 1, "checkpoint_every": 0,
         "workers": 0, "image_loss": "mse", "orbit_supervision": 1.0}


def quick(**settings):
    return TrainingConfig(**QUICK | settings)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="session")
def _narrow(perturb):
    pipeline = Ouroboros3DPipeline.from_pretrained("narrow")
    for seed, model in enumerate((pipeline.autoencoder, pipeline.multiview, pipeline.reconstructor)):
        perturb(model, seed=seed, scale=0.02)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.autoencoder.requires_grad_(False)
    pipeline.image_encoder.requires_grad_(False)
    return pipeline


@pytest.fixture
def narrow(_narrow):
    return copy.deepcopy(_narrow)


@pytest.fixture
def batch(_narrow, rendered):
    """Two objects with latents, and what F is told of their view 0."""
    objects = held_out_objects("val", 2, 64, 8, novel_views=2)
    with torch.no_grad():
        objects.latents = _narrow.autoencoder.encode(objects.orbit_images)
    torch.manual_seed(7)
    return objects, noised_condition(_narrow, objects.images[:, 0], TrainingConfig())


# --- rendered objects as a source of batches ---


def source(root, start=0, rank=0, world_size=1, **settings):
    objects = RenderedObjects(root, NARROW, quick(**{"novel_views": 4} | settings), "cpu", rank, world_size)
    objects.restart(start)
    objects.fill()
    return objects


def numbers(objects, rendered, count):
    """Which of the objects come, one by one."""
    names = []
    for _ in range(count):
        seen = objects.batch(1).rgba[0, 0]
        names += [i for i, views in enumerate(rendered) if torch.equal(views.rgba[0], seen)]
    return names


@pytest.fixture(params=["rendered_folder", "rendered_shards"])
def root(request):
    return request.getfixturevalue(request.param)


def test_a_batch_is_that_of_the_ring(root, rendered):
    objects = source(root)
    batch = objects.batch(3)
    assert batch.rgba.shape == (3, 12, 4, 64, 64) and batch.rgba.dtype == torch.uint8 and batch.latents is None
    assert batch.num_orbit_views == 8 and batch.cameras.shape == (3, 12) and objects.views == 12
    for rgba, cameras in zip(batch.rgba, batch.cameras.c2w, strict=True):
        (views,) = (views for views in rendered if torch.equal(views.rgba[:8], rgba[:8]))
        for picture, pose in zip(rgba[8:], cameras[8:], strict=True):
            (place,) = (i for i in range(8, 14) if torch.equal(views.rgba[i], picture))
            assert_close(views.cameras.c2w[place], pose, atol=1e-6, rtol=0)


def test_every_epoch_has_every_object_once_in_a_new_order_but_not_those_held_out(root, rendered):
    objects = source(root)
    assert torch.equal(objects.held_out().rgba[0, :8], rendered[0].rgba[:8]) and len(objects) == 6
    epochs = [numbers(objects, rendered, 5) for _ in range(4)]
    assert all(sorted(epoch) == [1, 2, 3, 4, 5] for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1 and objects.next == 20
    assert numbers(source(root), rendered, 5) == epochs[0] != numbers(source(root, seed=3), rendered, 10)[:5]


@pytest.mark.parametrize("workers", [0, 2])
def test_an_interrupted_source_goes_on_with_the_same_objects_and_views(root, workers):
    whole = source(root, workers=workers)
    batches = [whole.batch(2) for _ in range(6)]
    again = source(root, start=4, workers=workers)
    for before in batches[2:]:
        after = again.batch(2)
        assert torch.equal(before.rgba, after.rgba) and torch.equal(before.cameras.c2w, after.cameras.c2w)


def test_processes_share_the_objects_out(rendered_folder, rendered_shards, rendered):
    parts = [numbers(source(rendered_folder, rank=rank, world_size=5), rendered, 1) for rank in range(5)]
    assert sorted(sum(parts, [])) == [1, 2, 3, 4, 5]
    parts = [numbers(source(rendered_shards, rank=rank, world_size=2), rendered, 30) for rank in range(2)]
    assert parts[0] != parts[1] and set(parts[0]) == set(parts[1]) == {1, 2, 3, 4, 5}


def test_novel_views_are_drawn_anew_at_each_visit(root):
    objects = source(root, novel_views=2)
    poses = {tuple(objects.batch(1).cameras.c2w[0, 8:, 0, 3].tolist()) for _ in range(15)}
    assert len(poses) > 5  # five objects


def test_eight_of_sixteen_frames_make_the_orbit(tmp_path):
    batch = held_out_objects("val", 2, 64, 16, novel_views=0)
    for i in range(2):
        write_object(tmp_path / str(i), MultiviewObject(str(i), batch.rgba[i], batch.cameras[i], 16))
    objects = source(tmp_path, novel_views=4)
    drawn = objects.batch(1)
    assert torch.equal(drawn.rgba[0, :8], batch.rgba[1, ::2]) and objects.views == 12
    released = source(tmp_path, novel_views=0, orbit_views="0,2,4,6,8,10,12,15").batch(1)
    assert torch.equal(released.rgba[0, 7], batch.rgba[1, 15])
    for wanted, message in (("0,2", "2 views, the preset takes 8"), ("0,a", "expected numbers of views"),
                            ("0,1,2,3,4,5,6,99", "views .* were asked for")):
        with pytest.raises(InputError, match=message):
            source(tmp_path, novel_views=0, orbit_views=wanted).held_out()


@pytest.mark.parametrize("workers", [0, 2])
def test_faulty_objects_are_named_in_one_line_by_workers_too(tmp_path, rendered, workers):
    for views in rendered[:2]:
        write_object(tmp_path / views.name, views)
    (tmp_path / "thing1" / "view_003.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"thing1/view_003\.png: cannot be read as a picture") as caught:
        source(tmp_path, workers=workers).batch(1)
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="holds 2 objects, of which validation_objects=2 are kept out"):
        source(tmp_path, validation_objects=2)
    with pytest.raises(InputError, match="has 6 views besides the orbit's 8; 7 novel ones"):
        source(tmp_path, novel_views=7).held_out()
    with pytest.raises(InputError, match="no such folder"):
        source(tmp_path / "missing")


# --- SVD's conditions ---


def test_the_condition_is_noised_and_f_is_told_how_much(narrow, batch):
    images, config = batch[0].images[:, 0], TrainingConfig()
    torch.manual_seed(3)
    condition = noised_condition(narrow, images, config)
    torch.manual_seed(3)
    strength = (-3 + 0.5 * torch.randn(2)).exp()
    latents, token = narrow.encode_condition(images, augmentation=strength)
    assert torch.equal(condition.latents, latents) and torch.equal(condition.image_embeds, token)
    assert_close(condition.added_time_ids, torch.stack([torch.full((2,), 6.0), torch.full((2,), 127.0), strength], 1))
    many = noised_condition(narrow, images[:1].expand(400, -1, -1, -1)[:, :, :64], config).added_time_ids[:, 2].log()
    assert abs(float(many.mean()) + 3) < 0.1 and abs(float(many.std()) - 0.5) < 0.06


def test_token_latents_and_both_are_dropped_in_a_share_each():
    torch.manual_seed(0)
    condition = Condition(torch.ones(4000, 4, 2, 2), torch.ones(4000, 1, 3), torch.ones(4000, 3)).dropped(0.1)
    latents, token = (value.flatten(1).all(1) for value in (condition.latents, condition.image_embeds))
    assert (condition.latents.flatten(1).any(1) == latents).all() and (condition.added_time_ids == 1).all()
    shares = [float((a & b).float().mean()) for a, b in ((latents, token), (latents, ~token), (~latents, token),
                                                         (~latents, ~token))]
    assert all(abs(share - expected) < 0.02 for share, expected in zip(shares, (0.7, 0.1, 0.1, 0.1), strict=True))


def test_every_condition_reaches_f(narrow, batch):
    objects, condition = batch
    config = quick(condition_dropout=0.0)

    def loss(condition):
        torch.manual_seed(0)
        return multiview_losses(narrow.multiview, narrow.scheduler, objects, config, condition)["multiview"]

    plain = loss(condition)
    assert torch.equal(plain, loss(condition))
    for name in ("latents", "image_embeds", "added_time_ids"):
        assert not torch.equal(plain, loss(replace(condition, **{name: 2 * getattr(condition, name)}))), name


# --- Algorithm 1 with SVD and LGM ---


def joint(pipeline, batch, seed=0, chance=0.5, **settings):
    config = quick(**{"condition_dropout": 0.0, "reconstruction_batch": 2} | settings)
    torch.manual_seed(seed)
    losses = joint_losses(pipeline.multiview, pipeline.reconstructor, pipeline.autoencoder.decode, pipeline.scheduler,
                          batch[0], config, batch[1], chance)
    return losses["multiview"], losses["reconstruction"]


def reached(loss, module):
    gradients = torch.autograd.grad(loss, list(module.parameters()), retain_graph=True, allow_unused=True)
    return [name for (name, _), g in zip(module.named_parameters(), gradients, strict=True)
            if g is not None and g.abs().max() > 0]


@torch.no_grad()
def test_losses_are_algorithm_1(narrow, batch):
    objects, condition = batch
    x, cameras = objects.latents, objects.orbit_cameras
    loss_mv, loss_recon = joint(narrow, batch, seed=4, self_conditioning_probability=1.0)
    torch.manual_seed(4)
    sigma = narrow.scheduler.sample_sigma(2)
    noisy_x = x + sigma[:, None, None, None, None] * torch.randn_like(x)  # line 1
    told = {"image_embeds": condition.image_embeds, "added_time_ids": condition.added_time_ids}
    pred_x = denoise(narrow.multiview, noisy_x, sigma, condition.latents, cameras, **told)  # line 2
    pred_i = narrow.autoencoder.decode(pred_x).clamp(0, 1)  # line 3
    gaussians = narrow.reconstructor(pred_i, cameras, c_noise(sigma))  # line 4
    self_cond = render_feedback(gaussians, cameras, 64)
    pred_x = denoise(narrow.multiview, noisy_x, sigma, condition.latents, cameras, self_cond, **told)  # line 5
    weight = (1 + sigma**2) / sigma**2
    assert_close(loss_mv, (weight * ((pred_x - x) ** 2).mean((1, 2, 3, 4))).mean(), atol=1e-4, rtol=1e-4)  # line 6
    clean = narrow.reconstructor(objects.orbit_images, cameras, c_noise(torch.full((2,), 0.002)))
    error = [(rasterize(g, objects.cameras, 64).rgb - objects.images).square().mean() for g in (gaussians, clean)]
    assert_close(loss_recon, sum(error) / 2, atol=1e-4, rtol=1e-4)  # on estimates and clean views, all 8 + 2 of them


def test_each_loss_reaches_its_own_model(narrow, batch):
    loss_mv, loss_recon = joint(narrow, batch)
    f, g = narrow.multiview, narrow.reconstructor
    assert not reached(loss_mv, g) and not reached(loss_recon, f)
    assert len(reached(loss_recon, g)) == len(list(g.parameters()))
    names = reached(loss_mv, f)
    # a query or key of a cross-attention on a single token has no influence, whatever the token
    inert = ("attn2.to_q", "attn2.to_k", "transformer_blocks.0.norm2")
    assert [n for n, _ in f.named_parameters() if n not in names and not any(part in n for part in inert)] == []
    _, loss_recon = joint(narrow, batch, decoder_gradient=True)
    assert "unet.conv_in.weight" in reached(loss_recon, f)
    with pytest.raises(RuntimeError):  # and the autoencoder stays as it is
        reached(loss_recon, narrow.autoencoder)


def test_feedback_rows_are_zero_maps_for_an_f_that_has_both_encoders(narrow, batch):
    for kind, name in (("rgb", "1"), ("ccm", "0")):
        loss_mv, _ = joint(narrow, batch, feedback=kind)
        assert f"cond_encoder.{name}.conv_in.weight" not in reached(loss_mv, narrow.multiview)
    starts = [initial_pipeline("narrow", [], quick(feedback=kind)).multiview.config for kind in ("none", "both")]
    assert starts[0] == starts[1]


@torch.no_grad()
def test_the_only_example_of_a_batch_is_fed_back_by_chance(narrow, batch):
    one = batch[0].select([0])
    one.latents = batch[0].latents[:1]
    other = copy.deepcopy(narrow)
    for parameter in other.reconstructor.parameters():
        parameter.mul_(1.5)
    for chance, sees_g in ((0.0, False), (0.49, False), (0.5, True), (0.99, True)):
        losses = [joint(pipeline, (one, batch[1][:1]), chance=chance)[0] for pipeline in (narrow, other)]
        assert torch.equal(*losses) != sees_g


def test_checkpointing_changes_no_loss_and_no_gradient(narrow, batch):
    other = copy.deepcopy(narrow)
    other.multiview.enable_gradient_checkpointing()
    gradients = []
    for pipeline in (narrow, other):
        loss_mv, loss_recon = joint(pipeline, batch)
        (loss_mv + loss_recon).backward()
        gradients.append({name: p.grad for name, p in pipeline.multiview.named_parameters()})
    for name, value in gradients[0].items():
        assert_close(gradients[1][name], value, atol=1e-5, rtol=1e-3, msg=name)


@torch.no_grad()
def test_g_computes_in_the_world_of_view_0_and_answers_in_ours(narrow, perturb):
    """The same pictures around the same orbit, tilted: LGM's weights see no difference, and the Gaussians tilt."""
    plain = perturb(LGMReconstructor.from_config(narrow.reconstructor.config, relative_poses=False), scale=0.02)
    ours = LGMReconstructor.from_config(narrow.reconstructor.config)
    ours.load_state_dict(plain.state_dict())
    images, level = torch.rand(2, 8, 3, 64, 64, generator=seeded()), torch.tensor([0.3, 0.3])
    rigs = evenly_spaced_orbit(8, torch.tensor([-5.0, 30.0]))
    relative, _ = relative_to_first(rigs)
    there = render_feedback(plain(images, relative, level), relative, 32)
    here = render_feedback(ours(images, rigs, level), rigs, 32)
    assert_close(here.rgb, there.rgb, atol=3e-3, rtol=0)
    assert (here.ccm - there.ccm).abs().max() > 0.05  # but coordinates are those of the object, not of view 0
    assert (plain(images, rigs, level).means - ours(images, rigs, level).means).abs().max() > 0.05


# --- the losses of renders ---


def test_losses_of_the_paper_and_of_the_released_code(narrow, batch):
    objects = batch[0]
    gaussians = narrow.reconstructor(objects.orbit_images, objects.orbit_cameras, torch.zeros(2))
    error = rasterize(gaussians, objects.cameras, 64).rgb - objects.images
    for kind, expected in (("mse", error.square().mean()), ("l1", error.abs().mean())):
        assert_close(reconstruction_loss(gaussians, objects, quick(image_loss=kind)), expected, atol=1e-6, rtol=1e-5)
    added = reconstruction_loss(gaussians, objects, quick(), perceptual=lambda a, b: 3 + 0 * (a - b).mean())
    assert_close(added, 3 + error.square().mean(), atol=1e-5, rtol=1e-5)
    some = reconstruction_loss(gaussians, objects, quick(orbit_supervision=0.0))  # the two novel views
    assert_close(some, error[:, 8:].square().mean(), atol=1e-6, rtol=1e-5)


def test_lpips_as_a_loss_or_which_file_is_missing(tmp_path, monkeypatch, rendered_folder):
    from torchvision.models import alexnet

    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    with pytest.raises(InputError, match=rf"lpips=vgg: .*{LPIPS_BACKBONES['vgg']} is missing; .*or set lpips=off"):
        train("narrow", tmp_path / "run", quick(lpips="vgg"), data=rendered_folder)
    (tmp_path / "checkpoints").mkdir()
    torch.manual_seed(0)
    path = tmp_path / "checkpoints" / LPIPS_BACKBONES["alex"]
    torch.save(alexnet().state_dict(), path)
    for place in ("torch.hub.load_state_dict_from_url", "torchvision.models._api.load_state_dict_from_url"):
        monkeypatch.setattr(place, lambda *_, **__: torch.load(path, weights_only=True))
    distance = perceptual_loss("alex", "cpu")
    clean = torch.rand(2, 3, 64, 64, generator=seeded())
    noisy = (clean + 0.1 * torch.randn(2, 3, 64, 64, generator=seeded(1))).requires_grad_()
    distance(noisy, clean).backward()
    assert noisy.grad.abs().max() > 0 and distance(clean, clean) < 1e-6
    large = torch.rand(1, 3, 512, 512, generator=seeded())
    half = [torch.nn.functional.interpolate(t, (256, 256), mode="bilinear") for t in (large, 1 - large)]
    assert_close(distance(large, 1 - large), distance(*half))


# --- averages ---


def test_averages_on_the_cpu_are_those_on_the_device():
    model = torch.nn.Linear(3, 3)
    same, cpu = (WeightAverages(model.parameters(), 0.9, device) for device in (None, "cpu"))
    for _ in range(5):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter))
        same.step(model.parameters())
        cpu.step(model.parameters())
    assert all(torch.equal(a, b) for a, b in zip(same.shadow_params, cpu.shadow_params, strict=True))
    before = [p.clone() for p in model.parameters()]
    assert not torch.equal(before[0], cpu.shadow_params[0])
    cpu.store(model.parameters())
    cpu.copy_to(model.parameters())
    assert all(torch.equal(p, s) for p, s in zip(model.parameters(), cpu.shadow_params, strict=True))
    cpu.restore(model.parameters())
    assert all(torch.equal(p, b) for p, b in zip(model.parameters(), before, strict=True))
    other = WeightAverages(torch.nn.Linear(3, 3).parameters(), 0.5, "cpu")
    other.load_state_dict(cpu.state_dict())
    assert other.decay == 0.9 and other.optimization_step == 5 and torch.equal(other.shadow_params[0],
                                                                               cpu.shadow_params[0])
