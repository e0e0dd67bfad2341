"""The README's pictures, with random weights: `python -m tools.hero`."""

import pytest
from PIL import Image

from tools.hero import SAMPLE, TURN, main


def test_both_pictures_are_written(tmp_path, capsys):
    main([str(SAMPLE), "--preset", "tiny", "--steps", "2", "--view", "1", "--out", str(tmp_path)])
    with Image.open(tmp_path / "hero.webp") as picture:
        assert picture.n_frames == 1 + 2 + TURN + 1 and picture.info["loop"] == 0
    with Image.open(tmp_path / "algorithm.png") as picture:
        assert picture.height > 4 * 96
    assert "hero.webp" in capsys.readouterr().out


def test_a_plan_that_does_not_reconstruct_in_every_step_is_refused(tmp_path, capsys):
    with pytest.raises(SystemExit) as error:
        main(["--plan", "calm", "--out", str(tmp_path)])
    assert error.value.code == 2 and "every step" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
