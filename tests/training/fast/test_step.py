"""The fast step is the plain one: the same losses and gradients, for every setting of Algorithm 1."""

import copy
from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close
from training_inputs import everything, reached

from ouroboros_lib import algorithms
from ouroboros_lib.loading import convert_weights
from ouroboros_lib.models.condition import Condition
from ouroboros_lib.training import TrainingConfig
from ouroboros_lib.training.fast.step import joint_losses


def losses_and_gradients(step, pipe, batch, cond, again, config, **options):
    """Of a step at fixed noise; gradients of each loss in F and G by name."""
    torch.manual_seed(3)
    losses = step(pipe, batch, cond, config, again, **options)
    named = {f"{name}.{key}": parameter for name in ("multiview", "reconstructor")
             for key, parameter in getattr(pipe, name).named_parameters()}
    found = [torch.autograd.grad(loss, named.values(), retain_graph=True, allow_unused=True) for loss in losses]
    return losses, [dict(zip(named, gradients, strict=True)) for gradients in found]


def assert_same(plain, fast):
    for one, other in zip(plain[0], fast[0], strict=True):
        assert_close(other, one, atol=0, rtol=1e-5)
    for one, other in zip(plain[1], fast[1], strict=True):
        for name, gradient in one.items():
            largest = 0 if gradient is None else gradient.abs().max()
            if largest == 0:  # a pass that does not count leaves zeros or nothing
                assert other[name] is None or not other[name].any(), name
            else:  # but for rounding, which differs between CPUs
                assert (other[name] - gradient).abs().max() <= 3e-4 * largest + 1e-7, name


SETTINGS = {
    "the paper's": {},
    "RGB alone": {"feedback": "rgb"},
    "CCM alone": {"feedback": "ccm"},
    "no feedback": {"feedback": "none"},
    "two stages": {"joint": False, "feedback": "none"},
    "two stages with feedback": {"joint": False},
    "through the decoder": {"decoder_gradient": True},
    "through the renders": {"detach_feedback": False},
    "nothing cut": {"decoder_gradient": True, "detach_feedback": False},
    "released map": {"feedback": "ccm", "coordinate_map": "released"},
    "released map, through it": {"coordinate_map": "released", "detach_feedback": False},
    "plain MSE": {"image_loss": "mse", "orbit_supervision": 1.0},
    "L1": {"image_loss": "l1"},
    "condition dropped": {"condition_dropout": 0.3},
    "one reconstructed": {"reconstruction_batch": 1},
    "all reconstructed": {"reconstruction_batch": 9},
    "compiled sees maps": {"compile": True},  # nothing is compiled here, but F gets zero maps in place of none
}


@pytest.mark.parametrize("name", SETTINGS)
def test_tiny(tiny, objects, name):
    tiny.autoencoder.requires_grad_(False)  # as in a run
    config = TrainingConfig(**{"reconstruction_batch": 2, "condition_dropout": 0.0} | SETTINGS[name])
    tiny.register_to_config(coordinate_map=config.coordinate_map)
    cond = Condition(objects.latents[:, 0])
    for again in (0,) if config.feedback == "none" else (0, 2) if not SETTINGS[name] else (2,):
        assert_same(*(losses_and_gradients(step, tiny, objects, cond, again, config)
                      for step in (algorithms.joint_losses, joint_losses)))


def test_narrow(narrow, batch):
    """With SVD's conditions, and both encoders whatever is fed back. In double precision: in single, group norms over
    few pixels enlarge how convolutions round, which depends on the number of rows, to many times F's gradients."""
    convert_weights(narrow, torch.float64)
    config = TrainingConfig(reconstruction_batch=1, image_loss="mse", orbit_supervision=0.125)
    narrow.register_to_config(coordinate_map=config.coordinate_map)
    assert_same(*(losses_and_gradients(step, narrow, *batch, 1, config)
                  for step in (algorithms.joint_losses, joint_losses)))


@pytest.mark.parametrize("again", [0, 1])
def test_a_single_example_and_a_perceptual_loss(tiny, objects, again):
    tiny.autoencoder.requires_grad_(False)
    one = replace(objects.select([1]), latents=objects.latents[1:2])
    assert_same(*(losses_and_gradients(step, tiny, one, Condition(one.latents[:, 0]), again, TrainingConfig(),
                                       perceptual=lambda a, b: (a - b).square().mean() + 0.5)
                  for step in (algorithms.joint_losses, joint_losses)))


@pytest.mark.parametrize(("settings", "at_once"), [
    ({}, True), ({"detach_feedback": False}, False), ({"decoder_gradient": True}, False)])
def test_losses_may_go_back_one_after_the_other(tiny, objects, settings, at_once):
    """With the same gradients, and only where they share nothing of their graph."""
    tiny.autoencoder.requires_grad_(False)
    config, cond = TrainingConfig(reconstruction_batch=2, **settings), Condition(objects.latents[:, 0])
    parameters, gradients, gone = [*tiny.multiview.parameters(), *tiny.reconstructor.parameters()], [], []

    def backward(loss):
        loss.backward()
        gone.append(loss.item())

    for early in (None, backward):
        torch.manual_seed(0)
        losses = joint_losses(tiny, objects, cond, config, 2, backward=early)
        assert [loss.requires_grad for loss in losses] == 2 * [early is None or not at_once]
        if losses[0].requires_grad:
            sum(losses).backward()
        gradients.append([p.grad.clone() for p in parameters])
        for p in parameters:
            p.grad = None
    assert gone == ([losses[1].item(), losses[0].item()] if at_once else [])
    assert_close(gradients[1], gradients[0], rtol=1e-4, atol=1e-6)


def test_all_weights_learn_in_half_precision(tiny, objects):
    """Older torch keeps weights that were cast without gradient, for the first estimate, and gives them again."""
    config = TrainingConfig(reconstruction_batch=2, condition_dropout=0.0)
    with torch.autocast("cpu", torch.bfloat16):
        loss_mv, loss_recon = joint_losses(tiny, objects, Condition(objects.latents[:, 0]), config, 2)
    assert reached(loss_mv, tiny.multiview) == everything(tiny.multiview)
    assert reached(loss_recon, tiny.reconstructor) == everything(tiny.reconstructor)


@pytest.mark.parametrize(("settings", "again", "rows"), [
    ({"joint": False, "feedback": "none"}, 0, [3]),  # not even an empty batch, which attention on CUDA refuses
    ({}, 1, [2, 3]), ({"reconstruction_batch": 1}, 2, [2, 3])])
def test_only_what_is_needed_gets_a_first_estimate(tiny, objects, settings, again, rows):
    seen = []
    tiny.multiview.register_forward_pre_hook(lambda module, arguments: seen.append(len(arguments[0])))
    config = TrainingConfig(**{"reconstruction_batch": 2} | settings)
    joint_losses(tiny, objects, Condition(objects.latents[:, 0]), config, again)
    assert seen == rows


def test_wrapped_networks_and_another_decoder_take_part(tiny, objects):
    """Each wrapped network is called once, with gradient; passes without go past it."""
    calls = []

    def wrapped(name):
        network = getattr(tiny, name)
        return lambda *given, **named: calls.append((name, torch.is_grad_enabled())) or network(*given, **named)

    def decode(latents):
        calls.append(("decoder", torch.is_grad_enabled()))
        return tiny.decode(latents)

    networks = {name: wrapped(name) for name in ("multiview", "reconstructor")}
    joint_losses(tiny, objects, Condition(objects.latents[:, 0]), TrainingConfig(reconstruction_batch=2), 2,
                 networks=networks, decode=decode)
    assert calls == [("decoder", False), ("reconstructor", True), ("multiview", True)]


def test_checkpointing_changes_no_loss_and_no_gradient(narrow, batch):
    config = TrainingConfig(reconstruction_batch=1, image_loss="mse", orbit_supervision=0.25)
    other = copy.deepcopy(narrow)
    other.multiview.enable_gradient_checkpointing()
    assert_same(*(losses_and_gradients(joint_losses, pipe, *batch, 1, config) for pipe in (narrow, other)))
