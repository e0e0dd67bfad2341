"""The first call of every notebook: its parameters are checked before anything runs."""

from pathlib import Path

import pytest

import ouroboros_lib
from ouroboros_lib import InputError, notebook
from ouroboros_lib.course.parameters import MARKER, empty_folder
from ouroboros_lib.files import find_file

KINDS = {"preset": ("small", "tiny", Path), "steps": range(2, 101), "joint_steps": (0, range(10, 1000)),
         "evaluated": [range(0, 100)], "elevation": slice(-90, 90), "folder": str, "image_path": find_file}
GOOD = {"preset": "small", "steps": 12, "joint_steps": 0, "evaluated": [10, 14], "elevation": 20, "folder": "outputs",
        "image_path": "ouroboros_lib/data/samples/snowman.png"}


@pytest.mark.parametrize("changes", [{}, {"preset": "tiny"}, {"steps": 100}, {"joint_steps": 10},
                                     {"evaluated": [0]}, {"image_path": __file__}])
def test_what_is_meant_passes(changes):
    assert notebook("cpu", GOOD | changes, **KINDS).type == "cpu"


@pytest.mark.parametrize("changes, message", [
    ({"preset": "smal"}, "parameter preset: expected one of small, tiny or a text that is the folder of a saved "
                         "pipeline, got 'smal'"),
    ({"steps": 1}, "parameter steps: expected a whole number from 2 to 100, got 1"),
    ({"steps": 12.5}, "parameter steps: expected a whole number"),
    ({"joint_steps": 3}, "parameter joint_steps: expected one of 0 or a whole number from 10 to 999, got 3"),
    ({"evaluated": [1, "2"]}, "parameter evaluated: [1]: expected a whole number from 0 to 99, got '2'"),
    ({"evaluated": []}, "parameter evaluated: expected a list of one or more, got a list of 0"),
    ({"evaluated": [-1]}, "parameter evaluated: [0]: expected a whole number from 0 to 99, got -1"),
    ({"evaluated": 10}, "parameter evaluated: expected a list of one or more, got 10"),
    ({"evaluated": "[1, 2]"}, "parameter evaluated: expected a list, got the text '[1, 2]'; to papermill a list is "
                              "given by -y 'evaluated: [1, 2]'"),
    *[({"image_path": path}, "parameter image_path: expected a text that is the path of a file, as it stands or from "
                             "the repository's folder, got '") for path in ("no.png", "", "tests", "a\0b", 300 * "a")],
    ({"elevation": "high"}, "parameter elevation: expected a number from -90 to 90, got 'high'"),
    ({"elevation": 1e9}, "parameter elevation: expected a number from -90 to 90"),
    ({"folder": None}, "parameter folder: expected a text, got None"),
])
def test_what_is_not_is_one_line(changes, message):
    with pytest.raises(InputError) as caught:
        notebook("cpu", GOOD | changes, **KINDS)
    assert message in str(caught.value)
    assert caught.value._render_traceback_() == [f"InputError: {caught.value}"]


def test_what_is_missing_or_no_device_is_one_line():
    with pytest.raises(InputError, match="parameter steps: it has no value"):
        notebook("cpu", {}, steps=int)
    with pytest.raises(InputError, match="parameter device: expected a text"):
        notebook(0)


def test_a_pipeline_folder_is_a_preset_too(tmp_path):
    (tmp_path / "model_index.json").touch()
    notebook("cpu", GOOD | {"preset": str(tmp_path)}, **KINDS)


def test_names_that_papermill_was_given_and_the_notebook_has_not():
    cells = ["", "steps = 12", "# Parameters\nstpes = 3\npreset = 'tiny'\n"]
    with pytest.raises(InputError, match="parameter stpes: this notebook has none of that name, did you mean steps?"):
        notebook("cpu", GOOD | {"In": cells}, **KINDS)
    notebook("cpu", GOOD | {"In": ["", "own = 1", "# Parameters\nsteps = 3\ndevice = 'cpu'\n"]}, **KINDS)


@pytest.mark.parametrize("name", [".", "mine", "a_file"])
def test_only_what_notebooks_made_is_deleted(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "work.txt").touch()
    (tmp_path / "a_file").touch()
    with pytest.raises(InputError, match="holds what no notebook of this course made; choose another"):
        empty_folder(name)
    assert (tmp_path / "mine" / "work.txt").exists() and (tmp_path / "a_file").exists()


def test_outputs_of_an_earlier_run_make_room(tmp_path):
    folder = empty_folder(str(tmp_path / "outputs" / "new"))
    (folder / "joint").mkdir()
    (folder / "joint" / "weights").touch()
    assert empty_folder(str(folder)) == folder and [path.name for path in folder.iterdir()] == [MARKER]


def test_without_parameters_it_only_prepares():
    assert ouroboros_lib.notebook("cpu").type == "cpu"
