"""`ouroboros evaluate`: results of a run, and one line for everything that cannot be used."""

import inspect
import json
import shutil
from dataclasses import fields

import pytest
from evaluation_inputs import rows_of
from PIL import Image

from ouroboros_lib.cli.evaluation import evaluate
from ouroboros_lib.cli.main import main
from ouroboros_lib.data.folders import read_object, write_object
from ouroboros_lib.errors import InputError
from ouroboros_lib.evaluation.config import EvaluationConfig
from ouroboros_lib.evaluation.results import stamp


@pytest.fixture
def run(capsys):
    def call(*arguments):
        with pytest.raises(SystemExit) as caught:
            main([str(argument) for argument in ("evaluate", "--lpips", "off", *arguments)])
        return caught.value.code, *capsys.readouterr()
    return call


def spoil_missing(folder):
    (folder / "thing" / "view_002.png").unlink()


def spoil_size(folder):
    Image.new("RGB", (30, 40)).save(folder / "thing" / "view_001.png")


def spoil_one_size(folder):
    Image.open(folder / "thing" / "view_002.png").resize((32, 32)).save(folder / "thing" / "view_002.png")


def spoil_picture(folder):
    (folder / "thing" / "view_001.png").write_bytes(b"no picture")


def spoil_number(folder):
    for path in (folder / "thing").glob("view_*.png"):
        path.rename(path.with_name(path.name.replace("view", "picture")))
    (folder / "thing" / "picture_002.png").unlink()
    (folder / "thing" / "picture_003.png").unlink()


def spoil_link(folder):
    (folder / "thing" / "view_002.png").unlink()
    (folder / "thing" / "view_002.png").symlink_to(folder / "nowhere.png")


def spoil_all(folder):
    shutil.rmtree(folder / "thing")
    (folder / "thing").write_text("a file")


@pytest.mark.parametrize(("spoil", "word"), [(spoil_link, "view_002 is missing"),
                                             (spoil_all, "thing"), (spoil_missing, "view_002 is missing"),
                                             (spoil_number, "thing: 3 pictures"),
                                             (spoil_size, "view_001.png: 30 x 40"),
                                             (spoil_one_size, "view_002.png: 32 pixels a side, but view_000.png"),
                                             (spoil_picture, "view_001.png: cannot be read")])
def test_bad_pictures_are_skipped_and_named(run, mesh_data, protocol, tmp_path, spoil, word):
    for name in ("thing", "other"):
        write_object(tmp_path / "out" / name, read_object(mesh_data / "views" / name))
    spoil(tmp_path / "out")
    path = tmp_path / "protocol.json"
    path.write_text(json.dumps(protocol.record() | {"objects": "all"}))
    code, text, error = run("--data", mesh_data / "views", "--method", f"images:{tmp_path / 'out'}", "--protocol", path,
                            "--out", tmp_path / "figures")
    assert code == 1 and error.startswith("skipped: ") and error.count("\n") == 1 and word in error
    assert "1 skipped: thing" in text and {row["object"] for row in rows_of(tmp_path / "figures")} == {"other"}
    assert json.loads((tmp_path / "figures.json").read_text())["skipped"].keys() == {"thing"}
    assert (tmp_path / "figures.parts").is_dir()  # `other` will not be measured again


@pytest.mark.parametrize(("file", "text", "word"), [
    ("object.json", '["no object"]', "object.json: expected an object, got a list of 1"),
    ("object.json", '{"render": 5}', "object.json: render: expected an object, got 5"),
    ("object.json", '{"source": {"to_world": [[1]]}}', "source.to_world: expected a list of 4, got a list of 1"),
    ("object.json", '{"num_orbit_views": 1e999}', "1e999 is not a finite number"),
    ("cameras.json", '{"c2w": [NaN]}', "NaN is not a finite number"),
    ("cameras.json", '{"c2w": "[" , "intrinsics": []}', "c2w: expected a list, got '['"),
    ("view_001.png", "", "view_001.png: cannot be read"),
])
def test_bad_truths_are_skipped_and_named(run, mesh_data, protocol, tmp_path, file, text, word):
    for name in ("thing", "other"):
        shutil.copytree(mesh_data / "views" / name, tmp_path / "views" / name)
    (tmp_path / "views" / "thing" / file).write_text(text)
    path = tmp_path / "protocol.json"
    path.write_text(json.dumps(protocol.record() | {"objects": "all"}))
    code, _, error = run("--data", tmp_path / "views", "--method", f"images:{mesh_data / 'views'}", "--protocol", path,
                         "--out", tmp_path / "figures")
    assert code == 1 and error.startswith("skipped: ") and error.count("\n") == 1 and word in error
    assert {row["object"] for row in rows_of(tmp_path / "figures")} == {"other"}


def test_links_to_nowhere_are_named(tmp_path):
    (tmp_path / "view_002.png").symlink_to(tmp_path / "nowhere.png")
    with pytest.raises(InputError, match="view_002.png: cannot be read .No such file"):
        stamp([tmp_path])


def test_damaged_parts_are_measured_again(run, mesh_data, protocol, tmp_path):
    path, out = tmp_path / "protocol.json", tmp_path / "figures"
    path.write_text(json.dumps(protocol.record() | {"objects": "all"}))
    shutil.copytree(mesh_data / "views" / "other", tmp_path / "out" / "other")
    arguments = ("--data", mesh_data / "views", "--method", f"images:{tmp_path / 'out'}", "--protocol", path,
                 "--out", out)
    assert run(*arguments)[0] == 1  # `thing` is not there, so the parts stay
    rows = out.with_suffix(".csv").read_text()
    for name, damage in (("object-other.json", b'{"rows": [[1]], "shapes": [], "alignment": {}}'),
                         ("object-other.npz", b"PK"), ("object-other.json", b"[" * 9999)):
        (tmp_path / "figures.parts" / name).write_bytes(damage)
        assert run(*arguments)[0] == 1 and out.with_suffix(".csv").read_text() == rows


BAD_OPTIONS = {
    "split": (["--split", "train"], "val, test, heldout"), "no objects": (["--objects", "0"], "objects=0"),
    "plan": (["--plan", "both"], "paper, calm, two-stage"), "plan's field": (["--plan", "calm,often=3"], "often=3"),
    "plan's number": (["--plan", "calm,every=0"], "every=0: expected a whole number of at least 1"),
    "plans": (["--plan", "paper", "--plan", "every=1"], "the same"), "seeds": (["--seeds", "1,x"], "--seeds"),
    "no seed": (["--seeds", "0"], "seeds=0"), "no steps": (["--steps", "0"], "steps=0"),
    "guidance": (["--guidance", "high"], "--guidance"), "negative guidance": (["--guidance", "-1"], "guidance=-1"),
    "eta": (["--eta", "2"], "eta=2"), "no number": (["--eta", "nan"], "eta=nan"),
    "lpips": (["--lpips", "squeeze"], "alex, vgg, off"), "more shapes": (["--geometry", "200"], "only 128 objects"),
    "preset": (["--preset", "huge"], "huge"), "device": (["--device", "abacus"], "device abacus"),
    "method": (["--method", "images:x"], "it needs data"), "align": (["--align", "both"], "it needs data"),
    "ending": (["--out", "{here}.csv"], "without a dot"),
}
BAD_OPTIONS_WITH_DATA = {
    "method": (["--method", "video:x"], "images:DIR"), "no folder": (["--method", "images:nowhere"], "is no folder"),
    "empty": (["--method", "images:{empty}"], "empty folder"), "align": (["--align", "pose"], "azimuth"),
    "convention": (["--method", "mesh:{here}", "--convention", "x"], "SyncDreamer"),
    "kind": (["--method", "mesh:{here}", "--convention", "SV3D"], "makes images"),
    "ours otherwise": (["--convention", "LGM"], "method=ours"), "protocol": (["--protocol", "gso"], "released"),
    "no data": (["--data", "nowhere"], "no such folder"), "geometry": (["--geometry", "2"], "true meshes"),
    "procedural": (["--method", "images:{here}", "--split", "val"], "split=val"),
    "empty data": (["--data", "{empty}", "--method", "images:{here}"], "no multi-view folder"),
}


@pytest.mark.parametrize("name", BAD_OPTIONS)
def test_bad_options(run, tmp_path, name):
    options, word = BAD_OPTIONS[name]
    complains(run("--out", tmp_path / "out" / "figures", *(option.format(here=tmp_path) for option in options)), word)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", BAD_OPTIONS_WITH_DATA)
def test_bad_options_with_data(run, mesh_data, tmp_path, name):
    options, word = BAD_OPTIONS_WITH_DATA[name]
    (tmp_path / "empty").mkdir()
    options = [option.format(empty=tmp_path / "empty", here=mesh_data / "views") for option in options]
    complains(run("--data", mesh_data / "views", "--out", tmp_path / "out" / "figures", *options), word)
    assert not list(tmp_path.glob("out/figures.*sv"))


def complains(answer, word):
    """One line, exit code 2."""
    code, _, error = answer
    assert code == 2 and error.startswith("error: ") and error.count("\n") == 1 and word in error


def test_results_that_cannot_be_written(run, tmp_path):
    (tmp_path / "file").write_text("mine")
    complains(run("--out", tmp_path / "file" / "figures"), "is a file")
    (tmp_path / "figures.csv").mkdir()
    complains(run("--out", tmp_path / "figures"), "figures.csv")


def test_a_row_per_image_and_the_summary(run, tmp_path):
    code, text, _ = run("--preset", "tiny", "--out", tmp_path / "figures", "--objects", 2, "--steps", 1, "--plan",
                        "two-stage", "--eta", 0.5, "--device", "cpu", "--seeds", 2)
    assert code == 0 and "two-stage" in text and text.endswith("figures.json\n")
    settings = json.loads((tmp_path / "figures.json").read_text())["settings"]
    assert settings["seeds"] == [0, 1] and settings["eta"] == 0.5 and list(settings["plans"]) == ["two-stage"]
    assert len(rows_of(tmp_path / "figures")) == 2 * (4 + 8 + 2 * (4 + 8 + 4))
    assert Image.open(tmp_path / "figures.png").width > 500


def test_every_setting_is_an_option():
    options = set(inspect.signature(evaluate).parameters)
    assert options == {field.name for field in fields(EvaluationConfig)} | {"out", "preset", "cluster"}
