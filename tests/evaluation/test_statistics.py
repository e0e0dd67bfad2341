"""Means, intervals and paired differences, by hand."""

import math

import numpy as np
import pytest

from ouroboros_lib.evaluation.rows import GEOMETRY, ImageRow, ShapeRow, orbit_quantities
from ouroboros_lib.evaluation.statistics import paired_interval, summarize, summarize_shapes


def test_interval_of_constructed_differences():
    random = np.random.default_rng(1)
    base = random.normal(20, 3, (50, 2))
    same = paired_interval(base + 0.5, base)
    assert same == {"mean": 0.5, "low": 0.5, "high": 0.5}  # the spread of the objects is not that of the difference
    noise = random.normal(0, 1, (50, 1)) * np.ones((1, 2))
    noise -= noise.mean()
    centred = paired_interval(base + noise, base)
    assert centred["mean"] == 0 and centred["low"] < 0 < centred["high"]
    # 1.96 standard errors to each side, here where all seeds agree
    assert centred["high"] - centred["low"] == pytest.approx(2 * 1.96 * noise[:, 0].std() / 50**0.5, rel=0.15)
    swapped = paired_interval(base, base + noise)
    assert swapped["low"] == pytest.approx(-centred["high"], abs=0.002)
    few = paired_interval((base + noise)[:10], base[:10])
    assert few["high"] - few["low"] > centred["high"] - centred["low"]


def test_interval_covers_the_seeds_as_well():
    """Seeds that disagree widen the interval although all objects agree."""
    a = np.broadcast_to(np.array([0.0, 1.0, 2.0]), (40, 3))
    interval = paired_interval(a, np.zeros((40, 3)))
    assert interval["mean"] == 1 and interval["low"] <= 0.34 and interval["high"] >= 1.66


def test_summary_by_hand():
    def row(method, number, view, kind, score, seed=0):
        return ImageRow("p", method, seed, number, view, int(view == 0), kind, score, score / 100)

    rows = [row("paper", n, v, "multiview", 10.0 + 10 * n + v) for n in range(2) for v in range(3)]
    rows += [row("paper", n, v, "render", 5.0 + v) for n in range(2) for v in range(5)]
    summary = summarize(rows, orbit_quantities(3))
    found = {name: {metric: value["mean"] for metric, value in entry.items() if metric != "objects"}
             for name, entry in summary["means"]["paper"].items()}
    assert found == {"views 0": {"psnr": 15.0, "ssim": 0.15}, "views 1+": {"psnr": 16.5, "ssim": 0.165},
                     "3D view 0": {"psnr": 5.0, "ssim": 0.05}, "3D views 1+": {"psnr": 6.5, "ssim": 0.065},
                     "3D novel": {"psnr": 8.5, "ssim": 0.085}}
    assert summary["means"]["paper"]["views 0"]["psnr"] == {"mean": 15.0, "low": 10.0, "high": 20.0}
    assert summary["means"]["paper"]["views 0"]["objects"] == 2 and summary.keys() == {"means"}
    # a second method without views, and a part of the model, which is not compared
    rows += [row("LGM", n, v, "render", 6.0 + v) for n in range(2) for v in range(5)]
    rows += [row("G-clean", n, v, "render", 9.0) for n in range(2) for v in range(5)]
    summary = summarize(rows, orbit_quantities(3))
    assert summary["paired differences in dB"] == {"paper minus LGM": dict.fromkeys(
        ("3D view 0", "3D views 1+", "3D novel"), {"mean": -1.0, "low": -1.0, "high": -1.0})}
    assert summary["paired differences of ssim"]["paper minus LGM"]["3D novel"]["mean"] == -0.01
    assert list(summary["means"]) == ["paper", "LGM", "G-clean"]


def test_summary_of_shapes_leaves_out_splats_that_nobody_sees():
    rows = [ShapeRow("p", "m", 0, 0, 0.1, 0.2, 0.15, 0.5, 0.4), ShapeRow("p", "m", 0, 1, 0.3, 0.2, 0.25, 0.7, 0.6),
            ShapeRow.measured("p", "n", 0, 2, **dict.fromkeys(GEOMETRY[:3], math.inf), f_score=0.0, iou=0.0)]
    rows += [rows[2]._replace(method="m")]
    assert summarize_shapes(rows) == {"m": {"accuracy": 0.2, "completeness": 0.2, "chamfer": 0.2, "f_score": 0.6,
                                            "iou": 0.5, "unseen": 1},
                                      "n": dict.fromkeys(GEOMETRY) | {"unseen": 1}}
