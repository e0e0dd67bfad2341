"""Live curves: what they read from a run, what they draw, and that they follow a run."""

import io
import json
import sys
import time

import numpy as np
import pytest
from PIL import Image

from ouroboros_lib.errors import InputError
from ouroboros_lib.viz import curves
from ouroboros_lib.viz.curves import draw_curves, live_curves, read_log, smooth

ONE = {"multiview": "loss_mv"}


def write_log(folder, entries, rest=""):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "log.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries) + rest)


def test_the_later_entry_of_a_step_counts_and_half_a_line_does_not(tmp_path):
    assert read_log(tmp_path) == []
    entries = [{"step": step, "multiview": value} for step, value in ((1, 5.0), (2, 4.0), (3, 9.0), (2, 3.0))]
    write_log(tmp_path, entries, rest='{"step": 4, "mul')
    assert read_log(tmp_path) == [entries[0], entries[3], entries[2]]


@pytest.mark.parametrize("line", ['{"step": 4, "mul', "[1]", "{}", '{"step": "4"}'])
def test_other_lines_are_named(tmp_path, line):
    write_log(tmp_path, [{"step": 1, "multiview": 5.0}], rest=line + "\n")
    with pytest.raises(InputError, match=r"log\.jsonl: one of its lines is no entry of a run's log"):
        read_log(tmp_path)


def test_smooth_is_a_running_mean():
    assert np.allclose(smooth([4.0, 2.0, 0.0, 4.0], 2), [4, 3, 1, 2])
    assert len(smooth([], 3)) == 0


def test_a_panel_for_each_name():
    log = [{"step": step, "multiview": 1 / step, "reconstruction": 1.0} for step in range(1, 20)]
    one = Image.open(io.BytesIO(draw_curves(log, ONE)))
    two = Image.open(io.BytesIO(draw_curves(log, curves.JOINT_LOSSES)))
    empty = Image.open(io.BytesIO(draw_curves([], ONE)))
    assert two.width == 2 * one.width and empty.size == one.size
    assert not np.array_equal(np.asarray(empty), np.asarray(one))


class Shown:
    """Stands for a notebook's display: keeps the pictures."""

    def __init__(self):
        self.pictures = []

    def __call__(self, picture, display_id):
        self.update(picture)
        return self

    def update(self, picture):
        self.pictures.append(picture.data)


def test_the_picture_follows_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr(curves, "display", shown := Shown())
    with live_curves(tmp_path / "run", ONE, every=0.05):
        print("progress")
        print("trouble", file=sys.stderr)
        write_log(tmp_path / "run", [{"step": 1, "multiview": 1.0}, {"step": 2, "multiview": 0.5}])
        deadline = time.monotonic() + 30
        while len(shown.pictures) < 3 and time.monotonic() < deadline:
            time.sleep(0.02)
        assert len(shown.pictures) >= 3  # while the block runs
    assert shown.pictures[0] != shown.pictures[-1] == draw_curves(read_log(tmp_path / "run"), ONE)
    assert (tmp_path / "run" / "train.log").read_text().split() == ["progress", "trouble"]


def test_a_run_that_fails_is_drawn_and_said(tmp_path, monkeypatch):
    monkeypatch.setattr(curves, "display", shown := Shown())
    with pytest.raises(RuntimeError, match="diverged"):
        with live_curves(tmp_path, ONE, every=60):
            write_log(tmp_path, [{"step": 1, "multiview": 1.0}])
            raise RuntimeError("diverged")
    assert len(shown.pictures) == 2
