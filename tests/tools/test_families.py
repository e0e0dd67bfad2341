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


def test_a_folder_of_rendered_objects_makes_a_sheet_too(tmp_path):
    with pytest.raises(SystemExit):
        main(["data", "objects", "--split", "test", "--count", "1", "--size", "32", "--out", str(tmp_path / "objects")])
    out = tmp_path / "sheet.png"
    families.main(["--data", str(tmp_path / "objects"), "--preset", "tiny", "--steps", "1", "--out", str(out)])
    assert 2 * 96 < np.asarray(Image.open(out)).shape[0] < 4 * 96
