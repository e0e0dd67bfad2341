import json
from pathlib import Path

import numpy as np
import pytest
import torch

from ouroboros_lib.noise import EDMNoise
from ouroboros_lib.presets import SHIPPED_WEIGHTS
from tools import samplers
from tools.samplers import SOLVERS, Cell, HeunNoise, MultistepNoise


def solve(kind, evaluations: int) -> float:
    """The error of a solver where the solution is known: data are Gaussian, and x falls as sqrt(1 + sigma^2)."""
    solver = kind(sigma_min=0.05, sigma_max=10.0)
    levels = solver.sigmas(evaluations).double()
    start = (1 + levels[0]**2).sqrt()
    x = start.clone()
    for sigma, after in zip(levels[:-1], levels[1:], strict=True):
        x = solver.step(x, x / (1 + sigma**2), sigma, after)
    return abs(float(x) - 1)


@pytest.mark.parametrize("kind", [MultistepNoise, HeunNoise])
def test_solvers_of_second_order_err_less_than_euler_for_the_same_work(kind):
    for evaluations in (32, 33, 64):
        assert solve(kind, evaluations) < 0.3 * solve(EDMNoise, evaluations)


@pytest.mark.parametrize("evaluations", [2, 3, 8, 9, 25])
@pytest.mark.parametrize("solver", SOLVERS)
def test_evaluations_are_counted(solver, evaluations):
    levels = Cell(solver, evaluations, "calm").scheduler(EDMNoise()).sigmas(evaluations)
    assert len(levels) == evaluations + 1
    assert levels[-1] == 0


def test_renewed_noise_is_a_setting_of_the_cell():
    x, pred_x = torch.ones(4), torch.zeros(4)
    for solver, (_, eta) in SOLVERS.items():
        scheduler = Cell(solver, 4, "calm").scheduler(EDMNoise(eta=0.7))
        levels = scheduler.sigmas(4)
        renewed = scheduler.step(x, pred_x, levels[0], levels[1], lambda: torch.full((4,), 100.0))
        assert (renewed > 10).all() == (eta > 0)


@pytest.fixture
def few(monkeypatch):
    wanted = [Cell("eta=1", 3, "calm"), Cell("2M", 2, "calm"), Cell("heun", 3, "two-stage")]
    monkeypatch.setattr(samplers, "cells", lambda: wanted)
    return wanted


def test_cells_are_compared_with_the_reference_on_the_same_objects(tmp_path, few, rendered_folder):
    arguments = [str(rendered_folder), "--preset", "tiny", "--seeds", "2", "--reference", few[0].name,
                 "--device", "cpu", "--out", str(tmp_path / "samplers.json")]
    samplers.main([*arguments, "--only", "1/2"])
    assert not (tmp_path / "samplers.json").exists()
    samplers.main([*arguments, "--only", "0/2"])
    record = json.loads((tmp_path / "samplers.json").read_text())
    assert list(record["cells"]) == [cell.name for cell in few]
    own, other = record["cells"][few[0].name], record["cells"][few[1].name]
    assert set(own["means"]) >= {"psnr 3D primary views", "lpips 3D primary views"}
    assert own["minus reference"]["psnr 3D primary views"]["mean"] == 0
    difference = other["means"]["psnr 3D primary views"]["mean"] - own["means"]["psnr 3D primary views"]["mean"]
    assert np.isclose(other["minus reference"]["psnr 3D primary views"]["mean"], difference, atol=2e-3)
    assert not (tmp_path / "samplers.cells").exists()


def test_what_the_shipped_weights_do_was_measured_and_is_no_worse_than_the_reference():
    index = json.loads((SHIPPED_WEIGHTS / "small" / "model_index.json").read_text())
    eta = json.loads((SHIPPED_WEIGHTS / "small" / "scheduler" / "scheduler_config.json").read_text())["eta"]
    measured = json.loads(Path("results", "samplers.json").read_text())["cells"]
    own = measured[Cell(f"eta={eta:g}", index["num_inference_steps"], index["plan"]).name]["minus reference"]
    assert len(own) == 12
    for name, interval in own.items():
        assert interval["low"] <= 0 if name.startswith("lpips") else interval["high"] >= 0, name


@pytest.mark.parametrize("given, message", [(["--reference", "eta=2, 3, calm"], "expected one of eta=1, 3, calm"),
                                            (["--only", "2/2"], "2/2: expected I/N"), (["--only", "1"], "1: expected")])
def test_what_is_not_there_is_one_line(tmp_path, few, capsys, given, message):
    with pytest.raises(SystemExit) as error:
        samplers.main([str(tmp_path), "--out", str(tmp_path / "out.json"), *given])
    assert error.value.code == 2
    assert message in capsys.readouterr().err
