"""Where the results of several inputs go."""

from pathlib import Path

import pytest

from ouroboros_lib.cli.options import result_folders
from ouroboros_lib.errors import InputError

OUT = Path("out")


@pytest.mark.parametrize("inputs, folders", [
    (["a/x.png"], ["out"]), (["a/x.png", "b/y.png"], ["out/x", "out/y"]),
    (["a/000.png", "b/000.png"], ["out/a/000", "out/b/000"]),  # renders of data sets are all called so
    (["../a/r/0.png", "../b/r/0.png", "../b/r/1.png"], ["out/a/r/0", "out/b/r/0", "out/b/r/1"]),
    (["0.png", "b/0.png"], ["out/0", "out/b/0"]), (["...png", "x.png"], ["out/...png", "out/x"]),
    (["a/x\n.png", "b/x.png"], ["out/x\n", "out/x"]),
    (["d/e/0.png", "d/0.png", "d/1.png"], ["out/e/0", "out/0", "out/1"])])
def test_folders_of_results(inputs, folders):
    assert list(result_folders([Path(name) for name in inputs], OUT).values()) == [Path(name) for name in folders]


@pytest.mark.parametrize("inputs", [
    ["a/x.png", "a/x.jpg"], ["d/e.png", "d/e/e.png"],  # one inside another
    ["a/x.png", "a/X.png"], ["a/x.png", "a/x .png"], ["a/x.png", "b/../a/x.png"], ["a/x.png", "A/x.png"],
    ["a/\N{LATIN SMALL LETTER E WITH ACUTE}", "a/e\N{COMBINING ACUTE ACCENT}"]])
def test_results_of_two_inputs_in_one_folder(inputs):
    with pytest.raises(InputError, match="would go to the same folder as those of "):
        result_folders([Path(name) for name in inputs], OUT)
