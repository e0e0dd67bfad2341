"""Mattes of pictures without an alpha channel: the remover that ships, rembg's, and the border's guess."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from pictures import iou, rgb_image, scene
from PIL import Image

from ouroboros_lib.data import mattes
from ouroboros_lib.data.mattes import border_matte, estimate_matte, u2netp_matte
from ouroboros_lib.data.photo import cut_out
from ouroboros_lib.errors import InputError

SAMPLES = Path(mattes.__file__).parent / "samples"


def noisy_scene(kind, seed=0):
    rng = np.random.default_rng(seed)
    picture, mask = scene(200, 240)
    y, x = np.mgrid[:200, :240] / 240
    if kind == "gradient":
        background = np.stack([0.5 + 0.4 * x, 0.6 + 0.2 * y, 0.9 - 0.3 * x * y], -1)
    elif kind == "noise":
        background = 0.6 + 0.05 * rng.standard_normal((200, 240, 3))
    else:
        background = 0.5 + 0.3 * np.stack([y, y, y], -1) + 0.02 * rng.standard_normal((200, 240, 3))
    picture[~mask] = background[~mask].clip(0, 1)
    if kind == "both, object touches the border":
        picture[90:130, 200:] = (0.2, 0.5, 0.2)
        mask[90:130, 200:] = True
    return picture.astype(np.float32), mask


@pytest.mark.parametrize("kind, least", [("plain", 0.95), ("gradient", 0.95), ("noise", 0.9),
                                         ("both, object touches the border", 0.9)])
def test_border_matte(kind, least):
    picture, mask = scene(200, 240) if kind == "plain" else noisy_scene(kind)
    matte = border_matte(picture)
    assert iou(matte > 0.5, mask) > least
    assert matte[mask].mean() > 0.95 and matte[~mask].mean() < 0.02  # holes filled, nothing left outside


def test_a_hole_of_the_background_colour_stays_part_of_the_object():
    picture, mask = scene(200, 240)
    picture[100:120, 85:105] = (0.9, 0.9, 0.85)
    assert iou(border_matte(picture) > 0.5, mask) > 0.95


def test_the_remover_that_ships_finds_an_object_before_a_busy_background():
    """Where the border's guess fails: stripes behind the figure of the samples."""
    figure = np.asarray(Image.open(SAMPLES / "figure.png"), np.float32) / 255
    y, x = np.mgrid[:256, :256]
    stripes = np.stack([0.5 + 0.2 * np.sin(x / 9 + y / 7), 0.5 + 0.2 * np.cos(y / 11), np.full(x.shape, 0.4)], -1)
    alpha = figure[..., 3:]
    picture = (figure[..., :3] * alpha + stripes * (1 - alpha)).astype(np.float32)
    assert iou(u2netp_matte(picture) > 0.5, alpha[..., 0] > 0.5) > 0.9
    assert iou(border_matte(picture) > 0.5, alpha[..., 0] > 0.5) < 0.6


def test_nothing_stands_out():
    with pytest.raises(InputError, match="grey.png: no object stands out in the picture; give one with a transparent"):
        estimate_matte("grey.png", np.full((60, 60, 3), 0.5, np.float32), "auto")


@pytest.fixture
def rembg(monkeypatch, tmp_path):
    """A stand-in of rembg that is given its answer, in a home without its model."""
    module = ModuleType("rembg")
    module.new_session = lambda name: f"session of {name}"
    monkeypatch.setitem(sys.modules, "rembg", module)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: object())
    for name in ("HOME", "U2NET_HOME", "REMBG_HOME"):
        monkeypatch.setenv(name, str(tmp_path))
    return module


def test_rembg_is_asked_for_u2net_by_name_and_a_download_is_announced(rembg, tmp_path, caplog):
    asked = []
    mask = Image.fromarray(scene()[1].astype(np.uint8) * 255)
    rembg.remove = lambda picture, session, only_mask: asked.append(session) or mask
    assert cut_out(rgb_image(), "auto").matte == "u2netp" and not asked and not caplog.messages
    cutout = cut_out(rgb_image(), "u2net")
    assert (cutout.matte, cutout.notes, asked) == ("u2net", [], ["session of u2net"])
    assert caplog.messages == ["rembg fetches its model u2net once: 176 MB, Apache-2.0"]
    (tmp_path / "u2net.onnx").touch()
    cut_out(rgb_image(), "u2net")
    assert len(caplog.messages) == 1


def test_what_ships_takes_the_place_of_a_failing_rembg(rembg, monkeypatch):
    def remove(*_args, **_kwargs):
        raise ConnectionError("cannot fetch\nthe model")
    rembg.remove = remove
    cutout = cut_out(rgb_image(), "u2net", "cup.png")
    assert cutout.matte == "u2netp"
    assert cutout.notes == ["cup.png: u2net cannot run (cannot fetch the model); the background was found by u2netp: "
                            "look at the result"]
    mattes.u2netp_session.cache_clear()
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    cutout = cut_out(rgb_image(), "u2net", "cup.png")
    assert cutout.matte == "border" and len(cutout.notes) == 1
    assert "u2netp cannot run (import of onnxruntime halted" in cutout.notes[0]
    assert "guessed from the border of the picture: look at the result" in cutout.notes[0]


def test_u2net_without_rembg(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None)
    with pytest.raises(InputError, match=r"--background u2net: rembg is not installed; pip install -e '.\[photo\]'"):
        cut_out(rgb_image(), "u2net")
