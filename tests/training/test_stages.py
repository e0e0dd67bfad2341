"""Which loss reaches which module in Algorithm 1 and the stages before it, what settings change, what F is given."""

import copy
from dataclasses import replace
from typing import get_args

import pytest
import torch
from torch.testing import assert_close
from training_inputs import blind, everything, quick_narrow, reached

from ouroboros_lib.algorithms import joint_losses
from ouroboros_lib.models.condition import Condition
from ouroboros_lib.models.feedback import CoordinateMap, feedback_names
from ouroboros_lib.models.multiview import MultiviewUNet
from ouroboros_lib.training import TrainingConfig
from ouroboros_lib.training.initial import initial_pipeline, save_pipeline
from ouroboros_lib.training.stages import (
    autoencoder_losses,
    multiview_losses,
    noised_condition,
    reconstructor_losses,
    second_passes,
)


def joint(pipe, batch, seed=0, again=2, **settings):
    """loss_mv and loss_recon of Algorithm 1, with the same random numbers for the same seed."""
    config = TrainingConfig(**{"reconstruction_batch": 2, "condition_dropout": 0.0} | settings)
    objects, cond = batch if isinstance(batch, tuple) else (batch, Condition(batch.latents[:, 0]))
    torch.manual_seed(seed)
    return joint_losses(pipe, objects, cond, config, 0 if config.feedback == "none" else again)


def test_each_loss_reaches_its_own_module(tiny, objects):
    tiny.autoencoder.requires_grad_(False)  # as in a run
    loss_mv, loss_recon = joint(tiny, objects)
    f, g = tiny.multiview, tiny.reconstructor
    assert reached(loss_mv, f) == everything(f)  # cameras and both feedback encoders among them
    assert {name.split(".")[0] for name in everything(f)} >= {"cameras_down", "cameras_up", "feedback_encoders"}
    assert reached(loss_mv, g) == set()
    assert reached(loss_recon, g) == everything(g)
    assert reached(loss_recon, f) == set()


def test_through_the_renders_if_they_are_not_detached(tiny, objects):
    loss_mv, loss_recon = joint(tiny, objects, detach_feedback=False)
    assert reached(loss_mv, tiny.reconstructor) == everything(tiny.reconstructor)
    assert reached(loss_mv, tiny.multiview) == everything(tiny.multiview)
    assert reached(loss_recon, tiny.multiview) == set()


def test_through_the_decoder_if_asked_for(tiny, objects):
    tiny.autoencoder.requires_grad_(False)  # as in a run
    loss_mv, loss_recon = joint(tiny, objects, decoder_gradient=True)
    # the first pass sees zero maps: nothing to learn for the weights that multiply them
    assert reached(loss_recon, tiny.multiview) == everything(tiny.multiview) - blind()
    assert reached(loss_recon, tiny.reconstructor) == everything(tiny.reconstructor)
    assert reached(loss_mv, tiny.reconstructor) == set()


def test_without_joint_training_g_sees_clean_views_only(tiny, objects, perturb):
    other = copy.deepcopy(tiny)
    perturb(other.multiview, seed=9)
    for is_joint in (False, True):
        loss_mv, loss_recon = joint(tiny, objects, joint=is_joint)
        other_mv, other_recon = joint(other, objects, joint=is_joint)
        assert not torch.equal(loss_mv, other_mv)
        assert torch.equal(loss_recon, other_recon) == (not is_joint)
        assert reached(loss_recon, tiny.reconstructor) == everything(tiny.reconstructor)


@pytest.mark.parametrize("feedback", ["none", "rgb", "ccm"])
def test_only_the_chosen_feedback_learns(tiny, objects, perturb, feedback):
    loss_mv, _ = joint(tiny, objects, feedback=feedback)  # an F with both encoders: the other one sees zeros
    embeds = {f"feedback_encoders.{name}.embed.weight": name in feedback_names(feedback) for name in ("rgb", "ccm")}
    names = reached(loss_mv, tiny.multiview)
    assert {name: name in names for name in embeds} == embeds

    network = perturb(MultiviewUNet.from_config(tiny.multiview.config, feedback=feedback))
    tiny.register_modules(multiview=network)
    loss_mv, _ = joint(tiny, objects, feedback=feedback)
    assert set(network.feedback_encoders) == set(feedback_names(feedback))
    assert reached(loss_mv, network) == everything(network)


def test_without_second_passes_f_never_sees_g(tiny, objects, perturb):
    other = copy.deepcopy(tiny)
    perturb(other.reconstructor, seed=9)
    for again, is_same in ((0, True), (1, False)):
        losses = [joint(pipe, objects, again=again)[0] for pipe in (tiny, other)]
        assert torch.equal(*losses) == is_same
    loss_mv, _ = joint(tiny, objects, again=0)
    assert everything(tiny.multiview) - reached(loss_mv, tiny.multiview) == blind()


def test_each_loss_reaches_its_own_model_of_the_papers_kind(narrow, batch):
    loss_mv, loss_recon = joint(narrow, batch, again=1, decoder_gradient=True)
    f, g = narrow.multiview, narrow.reconstructor
    assert not reached(loss_mv, g) and reached(loss_recon, g) == everything(g)
    # a query or key of a cross-attention on a single token has no influence, whatever the token
    inert = ("attn2.to_q", "attn2.to_k", "transformer_blocks.0.norm2")
    assert [n for n in everything(f) - reached(loss_mv, f) if not any(part in n for part in inert)] == []
    assert "unet.conv_in.weight" in reached(loss_recon, f)
    with pytest.raises(RuntimeError):  # and the autoencoder stays as it is
        reached(loss_recon, narrow.autoencoder)


def test_maps_left_out_are_zero_for_an_f_that_has_both_encoders(narrow, batch):
    for kind, name in (("rgb", "1"), ("ccm", "0")):
        loss_mv, _ = joint(narrow, batch, again=1, feedback=kind)
        assert f"cond_encoder.{name}.conv_in.weight" not in reached(loss_mv, narrow.multiview)
    starts = [initial_pipeline("narrow", [], quick_narrow(feedback=kind, novel_views=1)).multiview.config
              for kind in ("none", "both")]
    assert starts[0] == starts[1]


def test_the_only_example_of_a_batch_is_fed_back_by_chance():
    config = TrainingConfig()
    counts = [second_passes(config, 1, step, part) for step in range(500) for part in range(2)]
    assert set(counts) == {0, 1} and abs(sum(counts) / 1000 - 0.5) < 0.05
    assert {second_passes(config, 3, step, 0) for step in range(50)} == {1, 2}
    assert {second_passes(config, 4, step, 0) for step in range(50)} == {2}
    assert second_passes(config, 3, 7, 1) == second_passes(TrainingConfig(), 3, 7, 1)
    assert second_passes(TrainingConfig(feedback="none"), 4, 0, 0) == 0
    rare = TrainingConfig(self_conditioning_probability=0.0)
    assert not any(second_passes(rare, 4, step, 0) for step in range(50))


def test_the_stages_before(tiny, objects):
    losses = multiview_losses(tiny, objects, Condition(objects.latents[:, 0]), TrainingConfig())
    assert reached(losses["multiview"], tiny.multiview) == everything(tiny.multiview) - blind()
    losses = reconstructor_losses(tiny.reconstructor, objects, TrainingConfig())
    assert reached(losses["reconstruction"], tiny.reconstructor) == everything(tiny.reconstructor)
    losses = autoencoder_losses(tiny.autoencoder, objects, TrainingConfig())
    encoder = {name for name in everything(tiny.autoencoder) if name.startswith("encoder")}
    assert reached(losses["reconstruction"], tiny.autoencoder) == everything(tiny.autoencoder)
    assert reached(losses["kl"], tiny.autoencoder) == encoder and set(losses) == {"reconstruction", "kl"}
    losses = autoencoder_losses(tiny.autoencoder, objects, TrainingConfig(), lambda a, b: (a - b).abs().mean())
    assert reached(losses["lpips"], tiny.autoencoder) == everything(tiny.autoencoder)


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
    found = {}
    for name in get_args(CoordinateMap):
        tiny.register_to_config(coordinate_map=name)
        found[name] = [joint(tiny, objects, feedback=feedback)[0] for feedback in ("both", "rgb")]
    assert found["canonical"][0] != found["released"][0] and found["canonical"][1] == found["released"][1]
    save_pipeline(tiny, tmp_path / "released")
    start = initial_pipeline("tiny", [f"multiview={tmp_path / 'released'}"], TrainingConfig(stage="multiview"))
    assert start.config.coordinate_map == "released"
    start = initial_pipeline("tiny", [str(tmp_path / "released")], TrainingConfig(stage="joint"))
    assert start.config.coordinate_map == "canonical"  # a joint run has its own setting


def test_conditions_are_dropped_whole_and_as_often_as_asked_for():
    torch.manual_seed(0)
    whole = Condition(torch.ones(2000, 8, 2, 2))
    kept = whole.dropped(0.25).latents.flatten(1)
    assert ((kept == 0).all(1) | (kept == 1).all(1)).all()
    assert abs(float((kept == 0).all(1).float().mean()) - 0.25) < 0.04
    assert torch.equal(whole.dropped(0.0).latents, whole.latents)


def test_token_latents_and_both_are_dropped_in_a_share_each():
    torch.manual_seed(0)
    condition = Condition(torch.ones(4000, 4, 2, 2), torch.ones(4000, 1, 3), torch.ones(4000, 3)).dropped(0.1)
    latents, token = (value.flatten(1).all(1) for value in (condition.latents, condition.image_embeds))
    assert (condition.latents.flatten(1).any(1) == latents).all() and (condition.added_time_ids == 1).all()
    shares = [float((a & b).float().mean()) for a, b in ((latents, token), (latents, ~token), (~latents, token),
                                                         (~latents, ~token))]
    assert all(abs(share - expected) < 0.02 for share, expected in zip(shares, (0.7, 0.1, 0.1, 0.1), strict=True))


def test_the_condition_is_noised_and_f_is_given_how_much(narrow, batch):
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


def test_every_condition_reaches_f(narrow, batch):
    objects, condition = batch
    config = quick_narrow(condition_dropout=0.0)

    def loss(condition):
        torch.manual_seed(0)
        with torch.no_grad():
            return multiview_losses(narrow, objects, condition, config)["multiview"]

    plain = loss(condition)
    assert torch.equal(plain, loss(condition))
    for name in ("latents", "image_embeds", "added_time_ids"):
        assert not torch.equal(plain, loss(replace(condition, **{name: 2 * getattr(condition, name)}))), name
