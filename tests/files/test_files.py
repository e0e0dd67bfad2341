"""Files: found from any folder, read with one line for what is wrong."""

from pathlib import Path

import pytest

from ouroboros_lib.errors import InputError
from ouroboros_lib.files import check_writable, find_file, parse_json, replace_file


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


def test_addresses_are_no_folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for address in ("s3://bucket/views", "https://host/views"):
        with pytest.raises(InputError, match="written on disks alone; choose another --out"):
            check_writable(Path(address))
    check_writable(Path("run:1"))
    assert not list(tmp_path.iterdir())


def test_a_file_that_cannot_be_replaced_leaves_nothing(tmp_path):
    (tmp_path / "folder").mkdir()
    for name in ("folder", "n" * 300):
        with pytest.raises(OSError):
            replace_file(tmp_path / name, b"new")
    replace_file(tmp_path / ("n" * 255), b"new")  # as long as names may be
    assert sorted(len(path.name) for path in tmp_path.iterdir()) == [6, 255]


@pytest.mark.parametrize("data", [b"{", b"\xff", b"[" * 100_000])
def test_no_json(data):
    with pytest.raises(InputError, match="a.json: not a JSON file"):
        parse_json(data, "a.json")
