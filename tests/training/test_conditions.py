"""What F is given of the condition view: dropped at times, and noised for SVD's."""

from dataclasses import replace

import torch
from torch.testing import assert_close
from training_inputs import quick_narrow

from ouroboros_lib.models.condition import Condition
from ouroboros_lib.training import TrainingConfig
from ouroboros_lib.training.conditions import noised_condition
from ouroboros_lib.training.stages import multiview_losses


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
