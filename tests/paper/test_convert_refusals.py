"""Published weights, in narrow stand-ins of the same names: what is refused, and how."""

import json
import os
import pickle
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from stand_ins import NARROW, command

from ouroboros_lib.errors import InputError
from ouroboros_lib.paper import convert
from ouroboros_lib.paper.lgm import LGMReconstructor
from ouroboros_lib.paper.tensor_files import read_tensors

KEYS = Path(__file__).parents[1] / "parity" / "released_keys.json.gz"


class Evil:
    def __init__(self, path):
        self.marker = path.with_name("code_ran")

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


def evil(path):
    torch.save({"conv.weight": Evil(path)}, path)


def evil_plain_pickle(path):
    path.write_bytes(pickle.dumps(Evil(path), protocol=2))


def truncated(path):
    path.write_bytes(path.read_bytes()[:-5000])


def flipped_bits(path):
    data = bytearray(path.read_bytes())
    for offset in range(len(data) // 2, len(data) // 2 + 64):
        data[offset] ^= 255
    path.write_bytes(data)


def empty(path):
    path.write_bytes(b"")


def text(path):
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0000\nsize 7060\n")


def a_list(path):
    torch.save([torch.zeros(3)], path)


def wrapped(path):
    torch.save({"model": torch.load(path), "step": 3}, path)


def not_numbers(path):
    state = torch.load(path)
    state["conv.weight"][0, 0] = float("nan")
    torch.save(state, path)


def lacking(path):
    state = torch.load(path)
    del state["conv.bias"], state["unet.norm_out.weight"]
    torch.save(state, path)


def foreign(path):
    torch.save({"layer.weight": torch.zeros(3)}, path)


def missing(path):
    path.unlink()


REFUSED = {evil: r"it asks to run \w+.mkdir", evil_plain_pickle: "not a file of nothing but tensors",
           truncated: "damaged", flipped_bits: "damaged", empty: "damaged", text: "not a file of nothing but tensors",
           a_list: "holds a list", wrapped: "'model' is a", not_numbers: "not numbers in conv.weight",
           lacking: 'Missing key.*: "unet.norm_out.weight", "conv.bias"', foreign: 'Missing key.*: "unet',
           missing: "no file recon_model.pth"}


@pytest.mark.parametrize("damage", REFUSED, ids=lambda function: function.__name__)
def test_unfit_checkpoints_end_in_one_line_and_nothing_is_written(published, tmp_path, capsys, damage):
    shutil.copytree(published / "released", tmp_path / "released")
    damage(tmp_path / "released" / "ckpt" / "recon_model.pth")
    (tmp_path / "out").mkdir()
    code, lines = command(capsys, "convert", "released", tmp_path / "released", "--svd", published / "svd", "--out",
                          tmp_path / "out" / "pipe", *NARROW)
    assert code == 2 and len(lines) == 1 and lines[0].startswith(f"error: {tmp_path}")
    assert re.search(REFUSED[damage], lines[0]), lines
    assert not list((tmp_path / "out").iterdir()) and not list(tmp_path.rglob("code_ran"))


def other_heads(svd):
    change(svd / "unet" / "config.json", num_attention_heads=[1, 2, 4, 4])


def other_scale(svd):
    change(svd / "vae" / "config.json", scaling_factor=0.13025)


def other_clip(svd):
    change(svd / "image_encoder" / "config.json", hidden_act="quick_gelu")


def other_mean(svd):
    change(svd / "feature_extractor" / "preprocessor_config.json", image_mean=[0.5, 0.5, 0.5])


def other_prediction(svd):
    change(svd / "scheduler" / "scheduler_config.json", prediction_type="epsilon")


def no_vae(svd):
    shutil.rmtree(svd / "vae")


def no_config(svd):
    (svd / "unet" / "config.json").unlink()


def no_settings(svd):
    (svd / "vae" / "config.json").write_text("3")


def cut_unet(svd):
    truncated(svd / "unet" / "diffusion_pytorch_model.safetensors")


def other_width(svd):
    file = svd / "unet" / "diffusion_pytorch_model.safetensors"
    save_file(load_file(file) | {"conv_out.bias": torch.zeros(5)}, file)


def change(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


SVD_REFUSED = {other_heads: "num_attention_heads is", other_scale: "scaling_factor is 0.13025, expected 0.18215",
               other_clip: "hidden_act is quick_gelu, expected gelu", other_mean: "image_mean is",
               other_prediction: "prediction_type is epsilon", no_vae: "vae: no diffusion_pytorch_model.safetensors",
               no_config: "config.json: no such file", no_settings: "config.json: expected an object, got 3",
               cut_unet: "not a file of nothing but tensors (", other_width: "size mismatch for unet.conv_out.bias"}


@pytest.mark.parametrize("damage", SVD_REFUSED, ids=lambda function: function.__name__)
def test_unfit_svd_folders(published, tmp_path, capsys, damage):
    shutil.copytree(published / "svd", tmp_path / "svd")
    damage(tmp_path / "svd")
    code, lines = command(capsys, "convert", "svd", tmp_path / "svd", "--out", tmp_path / "pipe", *NARROW)
    assert code == 2 and len(lines) == 1 and lines[0].startswith(f"error: {tmp_path / 'svd'}"), lines
    assert SVD_REFUSED[damage] in lines[0]
    assert [path.name for path in tmp_path.iterdir()] == ["svd"]


def test_unfit_targets_and_options(published, tmp_path, capsys):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.png").write_bytes(b"meow")
    svd, lgm = published / "svd", published / "lgm.safetensors"
    for arguments, message in (
            (("svd", svd, "--out", tmp_path / "photos", *NARROW), "is a folder of something else"),
            (("svd", svd, "--out", tmp_path / "x", "--preset", "small"), "expected paper or narrow"),
            (("svd", lgm, "--out", tmp_path / "x", *NARROW), "is a file; expected a folder"),
            (("svd", svd, "--lgm", svd, "--out", tmp_path / "x", *NARROW), "give LGM's safetensors file"),
            (("svd", svd, "--out", tmp_path / "x"), "block_out_channels is [32, 32, 32, 32], expected [128, 256"),
            (("svd", tmp_path / "nowhere", "--out", tmp_path / "x", *NARROW), "no such file or folder")):
        code, lines = command(capsys, "convert", *arguments)
        assert code == 2 and len(lines) == 1 and message in lines[0], lines
    assert [path.name for path in tmp_path.iterdir()] == ["photos"] and len(list((tmp_path / "photos").iterdir())) == 1


def test_tensors_are_read_from_both_kinds_of_files(tmp_path):
    tensors = {"a.weight": torch.randn(3, 2), "b": torch.randn(4).half()}
    save_file(tensors, tmp_path / "x.safetensors")
    torch.save(tensors, tmp_path / "x.pth")
    for name in ("x.safetensors", "x.pth"):
        read = read_tensors(tmp_path / name)
        assert read.keys() == tensors.keys() and all(torch.equal(read[key], tensors[key]) for key in tensors), name
    with pytest.raises(InputError, match="no such file"):
        read_tensors(tmp_path / "none.pth")


def test_fresh_parts_are_the_same_every_time_and_leave_the_generator_alone(published, tmp_path):
    torch.manual_seed(11)
    before = torch.get_rng_state()
    for name in ("a", "b"):
        convert.convert_svd(str(published / "svd"), tmp_path / name, preset="narrow")
    assert torch.equal(torch.get_rng_state(), before)
    a, b = (load_file(tmp_path / name / "multiview" / "diffusion_pytorch_model.safetensors") for name in ("a", "b"))
    assert all(torch.equal(a[key], b[key]) for key in a)
    assert LGMReconstructor.load_config(tmp_path / "a" / "reconstructor")["image_size"] == 64
