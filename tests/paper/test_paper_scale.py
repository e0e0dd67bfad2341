"""What notebook 06 rests on: costs by part, random models made in place, the recursion's profile."""

import matplotlib.pyplot as plt
import pytest
import torch

from ouroboros_lib.evaluation.profiling import profile_recursion
from ouroboros_lib.paper.costs import PARTS, bytes_kept_for_backward, bytes_of, parameters_by_part
from ouroboros_lib.paper.svd import CameraMLP
from ouroboros_lib.pipeline import Ouroboros3DPipeline
from ouroboros_lib.presets import load_preset, random_models
from ouroboros_lib.viz.bars import stacked_bars


@pytest.fixture(scope="module")
def full():
    with torch.device("meta"):
        return Ouroboros3DPipeline.from_preset("paper")


def test_parts_are_the_whole_and_each_has_its_own(full):
    parts = parameters_by_part(full)
    assert list(parts) == list(PARTS) and all(parts.values())
    models = [model for model in full.components.values() if isinstance(model, torch.nn.Module)]
    everything = [parameter for model in models for parameter in model.parameters()]
    assert len({id(p) for values in parts.values() for p in values}) == len(everything)
    millions = {part: sum(p.numel() for p in values) / 1e6 for part, values in parts.items()}
    assert round(sum(count for part, count in millions.items() if part[:3] == "SVD"), 1) == 1765.0
    assert round(sum(count for part, count in millions.items() if part[:3] == "LGM"), 1) == 424.0
    assert len(parts["SVD: each view"]) + len(parts["SVD: across views"]) == 1428
    assert bytes_of(everything) == sum(bytes_of(values) for values in parts.values())


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_bytes_kept_for_backward_by_hand(device):
    """A linear layer keeps its input, SiLU too."""
    with torch.device(device):
        mlp, harmonics = CameraMLP(78, 32), torch.zeros(50, 78)
        linear = torch.nn.Linear(78, 32)
    assert bytes_kept_for_backward(lambda: mlp(harmonics), mlp.parameters()) == 4 * 50 * (78 + 2 * 32)
    assert bytes_kept_for_backward(lambda: linear(harmonics), linear.parameters()) == 4 * 50 * 78
    twice = bytes_kept_for_backward(lambda: linear(harmonics) + linear(harmonics), linear.parameters())
    assert twice == 4 * 50 * 78  # one storage, kept once


def test_random_models_are_made_in_place_and_in_type(full):
    preset = load_preset("narrow")
    plain = random_models(preset, seed=1)
    before, dtype = torch.get_rng_state(), torch.get_default_dtype()
    half = random_models(preset, seed=1, device="cpu", dtype=torch.bfloat16)
    assert torch.equal(torch.get_rng_state(), before) and torch.get_default_dtype() == dtype
    for name in ("multiview", "reconstructor", "autoencoder", "image_encoder"):
        values = half[name].state_dict()
        assert {v.dtype for v in values.values() if v.is_floating_point()} == {torch.bfloat16}
        for key, value in plain[name].state_dict().items():  # as large as drawn in float32, if not the same numbers
            assert value.shape == values[key].shape
            if value.numel() > 1000 and value.is_floating_point():
                assert float(values[key].float().std()) == pytest.approx(float(value.std()), rel=0.2, abs=1e-6)
    again = random_models(preset, seed=1, device="cpu", dtype=torch.bfloat16)["multiview"].state_dict()
    assert all(torch.equal(value, again[key]) for key, value in half["multiview"].state_dict().items())
    on_meta = random_models(preset, device="meta", dtype=torch.bfloat16)["multiview"]
    assert {p.device.type for p in on_meta.parameters()} == {"meta"}
    assert {p.dtype for p in on_meta.parameters()} == {torch.bfloat16}
    with torch.device("cpu"):
        assert next(random_models(preset, device="meta")["multiview"].parameters()).is_meta
    assert torch.equal(plain["multiview"].unet.conv_in.weight,
                       random_models(preset, seed=1, device="cpu")["multiview"].unet.conv_in.weight)


def test_the_profile_of_the_recursion():
    pipe = Ouroboros3DPipeline.from_preset("narrow", device="cpu", dtype=torch.bfloat16)
    pipe.set_progress_bar_config(disable=True)
    profile = profile_recursion(pipe, steps=2, runs=1)
    assert list(profile.parts) == ["condition", "F", "decoder", "G", "splatting"] and profile.steps == 2
    assert min(profile.parts.values()) > 0 and sum(profile.shares.values()) == pytest.approx(1)
    assert profile.peak is None and profile.seconds > profile.parts["F"] / 3


def test_stacked_bars():
    axis = stacked_bars({"one": {"a": 1.0, "b": 2.0}, "two": {"b": 1.5}}, {"a": "red", "b": "blue"}, "GiB",
                        {"two": 4.0}, "quoted")
    assert [(bar.get_x(), bar.get_width()) for bar in axis.patches] == [(0, 1), (1, 2), (0, 0), (0, 1.5)]
    assert [text.get_text() for text in axis.texts] == ["1.0", "2.0", "1.5", "4"]
    assert [text.get_text() for text in axis.get_legend().get_texts()] == ["a", "b", "quoted"]
    plt.close(axis.figure)
