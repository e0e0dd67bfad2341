"""Muon: steps are orthogonal matrices, of AdamW's size."""

import pytest
import torch
from training_inputs import quick

from ouroboros_lib.errors import InputError
from ouroboros_lib.training import train
from ouroboros_lib.training.muon import Muon, is_hidden, orthogonal


@pytest.mark.parametrize("shape", [(3, 8, 8), (2, 6, 20), (2, 20, 6)])
def test_singular_values_become_about_one(shape):
    torch.manual_seed(0)
    values = torch.linalg.svdvals(orthogonal(torch.randn(shape)))
    assert values.shape == (shape[0], min(shape[1:])) and values.min() > 0.3 and values.max() < 1.3


def test_steps_go_downhill_on_matrices_and_convolutions():
    torch.manual_seed(0)
    layers = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3, bias=False), torch.nn.Flatten(),
                                 torch.nn.Linear(8, 4, bias=False))
    layers.to(memory_format=torch.channels_last)
    x, y = torch.randn(16, 3, 3, 3), torch.randn(16, 4)
    optimizer, losses = Muon(layers.parameters(), lr=0.02), []
    for _ in range(30):
        loss = (layers(x) - y).square().mean()
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < 0.6 * losses[0]
    before = layers[2].weight.detach().clone()
    optimizer.step()
    step = (layers[2].weight.detach() - before).square().mean().sqrt().item()
    assert step == pytest.approx(0.02 * 0.2, rel=0.4)


def test_networks_are_shared_out_between_two_optimizers(tmp_path, runs):
    train("tiny", tmp_path, quick(stage="joint", steps=1, optimizer="muon"))
    adamw, muon = runs[0].optimizers
    hidden = {id(p) for group in muon.param_groups for p in group["params"]}
    rest = {id(p) for group in adamw.param_groups for p in group["params"]}
    named = [item for network in runs[0].networks.values() for item in network.named_parameters()]
    assert hidden | rest == {id(p) for _, p in named} and not hidden & rest
    assert hidden == {id(p) for name, p in named if is_hidden(name, p)} and all(p.ndim > 1 for _, p in named
                                                                               if id(p) in hidden)
    with pytest.raises(InputError, match="optimizer=muon: is for F and G"):
        quick(stage="autoencoder", optimizer="muon")
