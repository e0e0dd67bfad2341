"""The sheet of one object a family."""

import numpy as np
import pytest
from PIL import Image

from ouroboros_lib.cli.main import main
from tools import families


def test_a_sheet_of_families_shows_each_with_its_renders(tmp_path, capsys):
    out = tmp_path / "new" / "families.png"
    families.main(["mug,teapot", "--preset", "tiny", "--steps", "1", "--out", str(out)])
    assert str(out) in capsys.readouterr().out
    sheet = np.asarray(Image.open(out))
    assert sheet.shape[0] > 4 * 96 and sheet.shape[1] > 5 * 96  # two rows a family; tiny has four views
    with pytest.raises(SystemExit) as caught:
        families.main(["mug,spoon", "--preset", "tiny", "--out", str(tmp_path / "none.png")])
    assert caught.value.code == 2 and "spoon is no family" in capsys.readouterr().err
    assert not (tmp_path / "none.png").exists()


def test_a_wrong_sheet_is_one_line(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    for given, message in ((["--data", str(tmp_path / "none")], "none is not there"),
                           (["--photo", str(tmp_path / "none.jpg")], "none.jpg is not there"),
                           (["mug", "--take", "-1"], "--take: invalid natural value: '-1'"),
                           (["--data", str(tmp_path / "empty")], "empty"),
                           (["mug", "--preset", "smal"], "smal")):
        with pytest.raises(SystemExit) as caught:
            families.main([*given, "--steps", "1", "--out", str(tmp_path / "sheet.png")])
        error = capsys.readouterr().err
        assert caught.value.code == 2 and message in error.splitlines()[-1] and "Traceback" not in error
    assert not (tmp_path / "sheet.png").exists()


def test_a_folder_of_rendered_objects_makes_a_sheet_too(tmp_path):
    with pytest.raises(SystemExit):
        main(["data", "objects", "--split", "test", "--count", "1", "--size", "32", "--out", str(tmp_path / "objects")])
    out = tmp_path / "sheet.png"
    families.main(["--data", str(tmp_path / "objects"), "--preset", "tiny", "--steps", "1", "--out", str(out)])
    assert 2 * 96 < np.asarray(Image.open(out)).shape[0] < 4 * 96


def test_families_folders_and_photos_stand_in_one_sheet(tmp_path):
    with pytest.raises(SystemExit):
        main(["data", "objects", "--split", "test", "--count", "3", "--size", "32", "--out", str(tmp_path / "objects")])
    picture = Image.new("RGBA", (40, 30))
    picture.paste((200, 90, 40, 255), (10, 5, 30, 25))
    picture.save(tmp_path / "brick.png")
    out, heights = tmp_path / "sheet.png", []
    for given in (["mug"], ["mug", "--data", str(tmp_path / "objects"), "--take", "2"],
                  ["mug", "--data", str(tmp_path / "objects"), "--take", "2", "--photo", str(tmp_path / "brick.png")]):
        families.main([*given, "--preset", "tiny", "--steps", "1", "--out", str(out)])
        heights.append(Image.open(out).height)
    assert heights[1] - heights[0] == pytest.approx(2 * (heights[2] - heights[1]), rel=0.1)
    all_of_them, again = ([label for label, _ in families.folder_objects(tmp_path / "objects", take, 32, 4)]
                          for take in (0, 2))
    assert len(all_of_them) == 3 and len(again) == 2 and set(again) <= set(all_of_them)
