"""The README's pictures, with random weights: `python -m tools.hero`."""

import pytest
from PIL import Image

from tools import hero
from tools.hero import SAMPLE, TURN, main


def test_both_pictures_are_written(tmp_path, capsys):
    main([str(SAMPLE), "--preset", "tiny", "--steps", "2", "--view", "1", "--out", str(tmp_path)])
    with Image.open(tmp_path / "hero.webp") as picture:
        assert picture.n_frames == 1 + 2 + TURN + 1 and picture.info["loop"] == 0
    with Image.open(tmp_path / "algorithm.png") as picture:
        assert picture.height > 4 * 96
    assert "hero.webp" in capsys.readouterr().out


@pytest.mark.parametrize("plan, shown", [("calm", [1, 1, 3]), ("two-stage", [None, None, 3]), ("paper", [1, 2, 3])])
def test_a_splat_stays_until_the_next_one(monkeypatch, tmp_path, plan, shown):
    frames, drawn = [], hero._frame
    monkeypatch.setattr(hero, "_frame", lambda *what: frames.append(what) or drawn(*what))
    main(["--preset", "tiny", "--plan", plan, "--steps", "3", "--out", str(tmp_path)])
    of_steps = [(splat, captions[1]) for _, _, splat, captions in frames if "step" in captions[0]]
    assert [caption for _, caption in of_steps] == [
        {None: "", 3: "3D of step 3"}.get(t, f"3D of step {t}, rendered, fed back") for t in shown]
    for (splat, _), (later, _), t, then in zip(of_steps, of_steps[1:], shown, shown[1:], strict=False):
        assert (splat is later) == (t == then) and (splat is None) == (t is None)


def test_weights_say_in_how_many_steps(monkeypatch, tmp_path):
    """The moving picture is what they do by default, the figure is Algorithm 2 as printed."""
    runs, run = [], hero.run
    monkeypatch.setattr(hero, "run", lambda *what: runs.append((str(what[3]), what[4])) or run(*what[:4], 1, what[5]))
    main(["--preset", "small", "--out", str(tmp_path)])
    assert runs == [("calm,every=3", 12), ("paper", 25)]
