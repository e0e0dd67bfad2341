"""Metrics against scikit-image and by hand; the held-out protocol on a tiny model."""

import csv
import json
from importlib.metadata import version

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from ouroboros_lib.errors import InputError
from ouroboros_lib.evaluation.heldout import (
    COLUMNS,
    Variant,
    all_variants,
    evaluate_heldout,
    paired_interval,
    summarize,
    summarize_geometry,
)
from ouroboros_lib.evaluation.metrics import LPIPS_BACKBONES, flip, load_lpips, psnr, ssim


@pytest.fixture
def pictures():
    """Two stacks of smooth pictures, (2, 3, 3, 32, 40), and noisy copies."""
    random = np.random.default_rng(0)
    u = np.linspace(0, 1, 40)[None] * random.uniform(1, 9, (2, 3, 3, 1, 1))
    v = np.linspace(0, 1, 32)[:, None] * random.uniform(1, 9, (2, 3, 3, 1, 1))
    clean = 0.5 + 0.4 * np.sin(u) * np.cos(v)
    level = np.linspace(0.01, 0.4, 6).reshape(2, 3, 1, 1, 1)
    noisy = np.clip(clean + level * random.normal(size=clean.shape), 0, 1)
    return torch.from_numpy(clean).float(), torch.from_numpy(noisy).float()


def test_metrics_agree_with_scikit_image(pictures):
    clean, noisy = pictures
    ours = psnr(noisy, clean), ssim(noisy, clean)
    assert ours[0].shape == ours[1].shape == (2, 3)
    for i, j in np.ndindex(2, 3):
        a, b = clean[i, j].numpy(), noisy[i, j].numpy()
        assert abs(float(ours[0][i, j]) - peak_signal_noise_ratio(a, b, data_range=1)) < 1e-4
        theirs = structural_similarity(a, b, data_range=1, channel_axis=0, gaussian_weights=True, sigma=1.5,
                                       use_sample_covariance=False)
        assert abs(float(ours[1][i, j]) - theirs) < 1e-4
    assert (ours[0][0, :-1] > ours[0][0, 1:]).all()  # more noise, lower score


def test_metrics_by_hand():
    black = torch.zeros(2, 3, 16, 16)
    torch.testing.assert_close(psnr(black + 0.1, black), torch.full((2,), 20.0))
    torch.testing.assert_close(psnr(black, black), torch.full((2,), 100.0))
    half = black.clone()
    half[0, :, :8] = 1  # half of the first picture is wrong by 1: 10 log10 2
    torch.testing.assert_close(psnr(half, black), torch.tensor([3.0103, 100.0]), atol=1e-4, rtol=0)
    torch.testing.assert_close(ssim(black, black), torch.ones(2))
    # flat pictures have luminance alone: (2 a b + c1) / (a^2 + b^2 + c1), c1 = 1e-4
    torch.testing.assert_close(ssim(black + 0.5, black + 0.25), torch.full((2,), (0.25 + 1e-4) / (0.3125 + 1e-4)),
                               atol=1e-4, rtol=0)


def test_one_picture_is_measured_as_one_of_many(pictures):
    clean, noisy = pictures
    for metric in (psnr, ssim, flip):
        alone, among = metric(noisy[0, 1], clean[0, 1]), metric(noisy, clean)[0, 1]
        assert alone.shape == () and float(alone) == pytest.approx(float(among), abs=1e-5), metric.__name__


def test_flip_by_hand_and_in_order(pictures):
    clean, noisy = pictures
    errors = flip(noisy, clean)
    assert errors.shape == (2, 3) and (errors[0].diff() > 0).all()  # more noise, larger error
    assert (flip(clean, clean) == 0).all()
    black = torch.zeros(1, 3, 24, 24)
    assert float(flip(black + 1, black)) > 0.9  # black for white is as wrong as it gets


def test_lpips_is_the_packages_own_or_says_which_file_is_missing(pictures, tmp_path, monkeypatch):
    import lpips
    from torchvision.models import alexnet

    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    with pytest.raises(InputError, match=LPIPS_BACKBONES["vgg"]):
        load_lpips("vgg")
    (tmp_path / "checkpoints").mkdir()
    torch.manual_seed(0)
    backbone = alexnet()
    path = tmp_path / "checkpoints" / LPIPS_BACKBONES["alex"]
    torch.save(backbone.state_dict(), path)
    # torchvision checks that the file is the one it published, which this one is not
    monkeypatch.setattr("torch.hub.load_state_dict_from_url", lambda *_, **__: torch.load(path, weights_only=True))
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url",
                        lambda *_, **__: torch.load(path, weights_only=True))
    clean, noisy = (torch.nn.functional.interpolate(images.flatten(0, 1), (64, 64)).unflatten(0, (2, 3))
                    for images in pictures)
    ours = load_lpips("alex")(noisy, clean)
    reference = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False).eval()
    reference.net.load_state_dict({key: value for key, value in load_slices(backbone).items()})
    theirs = reference(noisy.flatten(0, 1) * 2 - 1, clean.flatten(0, 1) * 2 - 1).view(2, 3)
    torch.testing.assert_close(ours, theirs.detach())
    assert ours.min() > 0 and load_lpips("alex")(clean, clean).abs().max() < 1e-6


def load_slices(backbone) -> dict:
    """AlexNet's features under the names that lpips gives them: cut into slices at the layers it compares."""
    cuts = (0, 2, 5, 8, 10, 12)
    return {f"slice{part + 1}.{layer}.{name}": value for part in range(5) for layer in range(cuts[part], cuts[part + 1])
            for name, value in backbone.features[layer].state_dict().items()}


# --- the protocol ---

FEEDBACKS, SEEDS = ("both", "none"), (0, 3)
METHODS = BOTH, NONE = "feedback-both-steps-2", "feedback-none-steps-2"


def measure(pipeline, folder, batch):
    summary = evaluate_heldout(pipeline, folder / "figures", "test", 3, all_variants(feedback=FEEDBACKS, steps=[2]),
                               SEEDS, batch)
    with open(folder / "figures.csv") as file:
        rows = list(csv.DictReader(file))
    return summary, rows, json.loads((folder / "figures.json").read_text())


@pytest.fixture(scope="module")
def measured(_tiny, tmp_path_factory):
    return {batch: measure(_tiny, tmp_path_factory.mktemp(f"batch{batch}") / "new", batch) for batch in (2, 3)}


def test_there_is_a_row_for_every_image(measured, _tiny):
    _, rows, _ = measured[2]
    assert tuple(rows[0]) == COLUMNS
    views, novel = _tiny.num_views, 4
    counts = {("autoencoder", "0", "autoencoder"): views, ("G-clean", "0", "render"): views + novel}
    for method in METHODS:
        for seed in SEEDS:
            counts |= {(method, str(seed), "multiview"): views, (method, str(seed), "render"): views + novel,
                       (method, str(seed), "self-consistency"): views}
    keys = [(row["method"], row["seed"], row["kind"], row["object"], row["view"]) for row in rows]
    assert sorted(keys) == sorted((*key, str(i), str(v)) for key, count in counts.items() for i in range(3)
                                  for v in range(count))
    for row in rows:
        assert row["protocol"] == "procedural-test-3" and row["lpips"] == row["flip"] == ""
        assert row["is_input_view"] == str(int(row["view"] == "0"))
        assert 0 < float(row["psnr"]) <= 100 and -1 <= float(row["ssim"]) <= 1


def test_the_record_says_how_the_figures_were_made(measured):
    summary, _, record = measured[2]
    assert record["summary"] == summary
    settings = record["settings"]
    assert settings.pop("variants") == {
        method: {"feedback": feedback, "feedback_from_step": 0, "feedback_share": 1.0, "feedback_scale": 1.0,
                 "feedback_every": 1, "guidance_scale": 1.0, "project_above": None, "project_share": 1.0,
                 "project_every": 1, "keep_input": False, "num_inference_steps": 2, "eta": None}
        for method, feedback in zip(METHODS, FEEDBACKS, strict=True)}
    assert settings == {"split": "test", "objects": 3, "num_views": 4, "seeds": list(SEEDS),
                        "metrics": ["psnr", "ssim"]}
    assert {"command", "date", "commit", "device", "versions", "minutes"} <= record.keys()
    assert record["device"] == "cpu" and record["versions"]["torch"] == version("torch")


def test_every_variant_is_a_method_of_its_own(_tiny, tmp_path):
    variants = all_variants(feedback=["both"], steps=[2], project_above=[None, 0.5])
    summary = evaluate_heldout(_tiny, tmp_path / "figures", "val", 1, variants)
    projected = summary["means"].pop("feedback-both-project-above-0.5-steps-2")
    assert projected != summary["means"][BOTH]
    assert list(summary["paired differences in dB"]) == [f"{BOTH} minus feedback-both-project-above-0.5-steps-2"]


def test_names_of_variants():
    assert Variant().method == "feedback-both"
    assert Variant("ccm", 10, 0.75, 0.5, 1.0, 0.25, True, 50, 1.5, 0.5, 4).method == (
        "feedback-ccm-feedback-from-10-feedback-share-0.75-feedback-scale-0.5-project-above-1-project-share-0.25"
        "-keep-input-1-steps-50-guidance-1.5-eta-0.5-feedback-every-4")
    combinations = all_variants(feedback=["both", "none"], feedback_from=[0, 10], feedback_scale=[0.5], guidance=[None],
                                feedback_every=[2])
    assert [variant.method for variant in combinations] == [  # none has no first step and no scale
        "feedback-both-feedback-scale-0.5-feedback-every-2",
        "feedback-both-feedback-from-10-feedback-scale-0.5-feedback-every-2", "feedback-none"]
    combinations = all_variants(feedback=["both"], project_above=[None, 1.0], project_share=[0.5, 1.0],
                                project_every=[1, 5])
    above = "feedback-both-project-above-1"
    assert [variant.method for variant in combinations] == [  # what is not projected has no share
        "feedback-both", f"{above}-project-share-0.5", f"{above}-project-share-0.5-project-every-5", above,
        f"{above}-project-every-5"]


def test_further_metrics_and_geometry(_tiny, tmp_path):
    summary = evaluate_heldout(_tiny, tmp_path / "figures", "val", 2, [Variant(steps=1)],
                               metrics={"flip": flip, "lpips": lambda a, b: (a - b).abs().mean((-3, -2, -1))},
                               geometry=2)
    with open(tmp_path / "figures.csv") as file:
        assert all(row["flip"] and row["lpips"] for row in csv.DictReader(file))
    with open(tmp_path / "figures_geometry.csv") as file:
        rows = list(csv.DictReader(file))
    assert [(row["method"], row["object"]) for row in rows] == [
        (method, number) for method in ("G-clean", "feedback-both-steps-1") for number in ("0", "1")]
    assert set(summary["means"]["G-clean"]["3D novel"]) == {"psnr", "ssim", "lpips", "flip"}
    assert summary["geometry"].keys() == {"G-clean", "feedback-both-steps-1"}


def test_a_reconstructor_of_single_views_is_measured_alone(_tiny, tmp_path):
    summary = evaluate_heldout(_tiny, tmp_path / "figures", "val", 1, single_view=True)
    assert list(summary["means"]) == ["single-view"] and "3D novel" in summary["means"]["single-view"]


def test_figures_do_not_depend_on_the_batch(measured):
    (_, rows, _), (_, others, _) = measured[2], measured[3]

    def table(entries):
        return {tuple(row[name] for name in COLUMNS[1:7]): (float(row["psnr"]), float(row["ssim"])) for row in entries}

    a, b = table(rows), table(others)
    assert a.keys() == b.keys()
    assert max(abs(a[key][0] - b[key][0]) for key in a) < 0.02 and max(abs(a[key][1] - b[key][1]) for key in a) < 1e-3


def test_summary_is_the_mean_of_the_rows(measured):
    summary, rows, _ = measured[3]

    def mean(method, kind, views):
        return np.mean([float(row["psnr"]) for row in rows
                        if row["method"] == method and row["kind"] == kind and int(row["view"]) in views])

    means = summary["means"]
    assert means.keys() == {"autoencoder", "G-clean", BOTH, NONE}
    for method, name, kind, views in (
            ("autoencoder", "PSNR", "autoencoder", range(4)), ("G-clean", "3D novel", "render", range(4, 8)),
            (BOTH, "views 0", "multiview", [0]), (BOTH, "views 1+", "multiview", [1, 2, 3]),
            (NONE, "3D view 0", "render", [0]), (NONE, "3D views 1+", "render", [1, 2, 3]),
            (NONE, "self-consistency", "self-consistency", range(4))):
        assert means[method][name]["psnr"] == pytest.approx(mean(method, kind, views), abs=0.006), (method, name)
    difference = summary["paired differences in dB"][f"{BOTH} minus {NONE}"]["views 1+"]
    expected = mean(BOTH, "multiview", [1, 2, 3]) - mean(NONE, "multiview", [1, 2, 3])
    assert difference["mean"] == pytest.approx(expected, abs=0.001)
    assert difference["low"] <= difference["mean"] <= difference["high"]
    other = [np.mean([float(row["ssim"]) for row in rows if row["method"] == method and row["kind"] == "multiview"
                      and int(row["view"]) in (1, 2, 3)]) for method in (BOTH, NONE)]
    difference = summary["paired differences of ssim"][f"{BOTH} minus {NONE}"]["views 1+"]
    assert difference["mean"] == pytest.approx(other[0] - other[1], abs=1e-4)


def test_a_failure_leaves_nothing_that_looks_finished(_tiny, tmp_path, monkeypatch):
    def full(*arguments):
        raise OSError("disk full")

    monkeypatch.setattr("ouroboros_lib.files.os.replace", full)
    with pytest.raises(OSError, match="disk full"):
        evaluate_heldout(_tiny, tmp_path / "figures", objects=1, variants=[Variant("none", steps=1)])
    assert not (tmp_path / "figures.csv").exists() and not (tmp_path / "figures.json").exists()


# --- statistics ---

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
        return ("p", method, seed, number, view, int(view == 0), kind, score, score / 100, "", "")

    rows = [row("feedback-both", n, v, "multiview", 10.0 + 10 * n + v) for n in range(2) for v in range(3)]
    rows += [row("feedback-both", n, v, "render", 5.0 + v) for n in range(2) for v in range(5)]
    summary = summarize(rows, num_views=3)
    assert summary["means"] == {"feedback-both": {
        "views 0": {"psnr": 15.0, "ssim": 0.15}, "views 1+": {"psnr": 16.5, "ssim": 0.165},
        "3D view 0": {"psnr": 5.0, "ssim": 0.05}, "3D views 1+": {"psnr": 6.5, "ssim": 0.065},
        "3D novel": {"psnr": 8.5, "ssim": 0.085}}}
    assert summary["paired differences in dB"] == {}


def test_geometry_summary_leaves_out_splats_that_nobody_sees():
    inf = float("inf")
    rows = [("p", "m", 0, 0, 0.1, 0.2, 0.15, 0.5, 0.4), ("p", "m", 0, 1, 0.3, 0.2, 0.25, 0.7, 0.6),
            ("p", "m", 0, 2, inf, inf, inf, 0.0, 0.0)]
    assert summarize_geometry(rows) == {"m": {"accuracy": 0.2, "completeness": 0.2, "chamfer": 0.2, "f_score": 0.6,
                                              "iou": 0.5, "unseen": 1}}
