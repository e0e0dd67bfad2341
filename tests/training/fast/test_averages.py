"""Averages of weights, wherever they are kept."""

import torch
from diffusers.training_utils import EMAModel

from ouroboros_lib.training.fast.averages import WeightAverages, swapped_in


@torch.no_grad()
def move(model):
    """A step of training, at random."""
    for parameter in model.parameters():
        parameter.add_(torch.randn_like(parameter))


def test_averages_on_the_cpu_are_those_on_the_device():
    model = torch.nn.Linear(3, 3)
    same, cpu = (WeightAverages(model.parameters(), 0.9, device) for device in (None, "cpu"))
    for _ in range(5):
        move(model)
        same.step(model.parameters())
        cpu.step(model.parameters())
    assert all(torch.equal(a, b) for a, b in zip(same.shadow_params, cpu.shadow_params, strict=True))
    before = [p.clone() for p in model.parameters()]
    assert not torch.equal(before[0], cpu.shadow_params[0])
    with swapped_in([(cpu, model)]):
        assert all(torch.equal(p, s) for p, s in zip(model.parameters(), cpu.shadow_params, strict=True))
        assert not model.training
    assert all(torch.equal(p, b) for p, b in zip(model.parameters(), before, strict=True))
    other = WeightAverages(torch.nn.Linear(3, 3).parameters(), 0.5, "cpu")
    other.load_state_dict(cpu.state_dict())
    assert other.decay == 0.9 and other.optimization_step == 5 and torch.equal(other.shadow_params[0],
                                                                               cpu.shadow_params[0])


def test_the_decay_rises_as_in_diffusers():
    model = torch.nn.Linear(3, 3)
    ours = WeightAverages(model.parameters(), 0.8)
    theirs = EMAModel(model.parameters(), decay=0.8, use_ema_warmup=True, power=0.75)
    for _ in range(12):
        move(model)
        ours.step(model.parameters())
        theirs.step(model.parameters())
    for one, other in zip(ours.shadow_params, theirs.shadow_params, strict=True):
        torch.testing.assert_close(one, other)
