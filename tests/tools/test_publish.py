"""The repository's address comes into every file that needs it, once."""

import json
import shutil
from pathlib import Path

import pytest

from ouroboros_lib.errors import InputError
from tools.publish import FIRST, publish

ROOT = Path(__file__).parents[2]


def test_the_address_and_the_badges(tmp_path):
    for name in ("README.md", "CITATION.cff"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / "notebooks", tmp_path / "notebooks", ignore=shutil.ignore_patterns("outputs"))
    with pytest.raises(InputError, match="expected an address such as"):
        publish(tmp_path, "github.com/someone/ouroboros3d")
    changed = publish(tmp_path, "https://github.com/someone/ouroboros3d.git")
    notebooks = sorted((tmp_path / "notebooks").rglob("*.ipynb"))
    assert set(changed) == {tmp_path / "README.md", tmp_path / "CITATION.cff", *notebooks}
    for path in notebooks:
        cells = ["".join(cell["source"]) for cell in json.loads(path.read_text())["cells"]]
        assert sum('repository = "https://github.com/someone/ouroboros3d"' in cell for cell in cells) == 1, path
    readme = (tmp_path / "README.md").read_text()
    assert "git clone https://github.com/someone/ouroboros3d ouroboros3d" in readme and "REPOSITORY" not in readme
    assert f"https://colab.research.google.com/github/someone/ouroboros3d/blob/main/{FIRST}" in readme
    assert f"https://mybinder.org/v2/gh/someone/ouroboros3d/main?labpath={FIRST}" in readme and (ROOT / FIRST).exists()
    assert "\nrepository-code: https://github.com/someone/ouroboros3d\n" in (tmp_path / "CITATION.cff").read_text()
    with pytest.raises(InputError, match="there is an address in it already"):
        publish(tmp_path, "https://github.com/someone/else")
