"""Files of the project are found from any folder."""

import pytest

from ouroboros_lib.errors import InputError
from ouroboros_lib.files import find_file


def test_files_are_found_from_any_folder(tmp_path, monkeypatch):
    (tmp_path / "checkout" / "notebooks").mkdir(parents=True)
    (tmp_path / "checkout" / "copied.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.png").write_text("mine")
    assert find_file("own.png").read_text() == "mine" and find_file(tmp_path / "own.png").is_file()
    assert find_file("ouroboros_lib/data/samples/snowman.png").is_file()  # beside the library
    monkeypatch.chdir(tmp_path / "checkout" / "notebooks")
    assert find_file("copied.json").samefile(tmp_path / "checkout" / "copied.json")  # above the current folder
    with pytest.raises(InputError, match="results/none.json: neither here"):
        find_file("results/none.json")
