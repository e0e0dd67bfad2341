"""Random models of the paper's kind, made in place."""

import pytest
import torch

from ouroboros_lib.presets import load_preset, random_models


def test_random_models_are_made_in_place_and_in_type():
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
