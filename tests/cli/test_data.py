"""`ouroboros data ...`: from nothing to folders and shards, one command each; resumed, and honest about what is bad."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from fuel import Fuel, gso_zip
from library_inputs import kaykit_zip

from ouroboros_lib.cameras import ELEVATION_RANGE, FOV, RADIUS, field_of_view
from ouroboros_lib.data.batches import held_out_objects
from ouroboros_lib.data.folders import collate, find_objects, read_object, write_object
from ouroboros_lib.data.renders import held_out
from ouroboros_lib.data.shards import ShardStream
from ouroboros_lib.evaluation.conventions import convention_names
from ouroboros_lib.evaluation.protocols import protocol_names

SMALL = ("--size", 16, "--views", 3, "--workers", 1)


@pytest.fixture
def run(run):
    return partial(run, "data")


@pytest.fixture
def fuel():
    server = Fuel()
    yield server
    server.close()


@pytest.fixture
def meshes(tmp_path):
    folder = tmp_path / "meshes"
    folder.mkdir()
    for number, name in enumerate(("one", "two", "three")):
        ball = trimesh.creation.icosphere(2 + number % 2)
        ball.visual.vertex_colors = np.tile(np.uint8([200, 40 * number, 0, 255]), (len(ball.vertices), 1))
        ball.export(folder / f"{name}.ply")
    return folder


def stamps(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_from_nothing_to_shards(run, fuel, tmp_path):
    fuel.archives = {f"Thing_{i}": gso_zip(i) for i in range(3)}
    code, text, errors = run("gso", "download", "--out", tmp_path / "gso", "--server", fuel.url, "--all")
    assert (code, errors) == (0, "") and "3 of 3 objects" in text and "CC-BY-4.0" in text
    code, text, errors = run("render", tmp_path / "gso", "--out", tmp_path / "views", *SMALL)
    assert (code, errors) == (0, "") and "3 of 3 objects" in text
    views = read_object(tmp_path / "views" / "Thing_1")
    source = views.info["source"]
    assert source["licence"] == "CC-BY-4.0" and "Downs" in source["attribution"] and source["up"] == "z"
    assert source["url"] == f"{fuel.url}/Thing_1.zip"
    assert run("check", tmp_path / "views")[0] == 0
    code, text, errors = run("shards", tmp_path / "views", "--out", tmp_path / "shards", "--shard-mb", 0.01)
    assert (code, errors) == (0, "") and "3 of 3 objects" in text
    streamed = list(ShardStream(tmp_path / "shards"))
    assert [o.name for o in streamed] == sorted(fuel.archives) and torch.equal(streamed[1].rgba, views.rgba)
    code, text, _ = run("shards", tmp_path / "views", "--out", tmp_path / "shards")
    assert code == 0 and "3 of 3 objects" in text and len(ShardStream(tmp_path / "shards")) == 3


def test_chosen_objects(run, fuel, tmp_path):
    fuel.archives = {name: gso_zip() for name in ("A", "B", "C")}
    code, text, _ = run("gso", "download", "--out", tmp_path, "--server", fuel.url, "--objects", "A,C")
    assert code == 0 and "2 of 2 objects" in text
    assert {path.name for path in tmp_path.iterdir() if path.is_dir()} == {"A", "C"}


def test_failed_downloads_are_named_and_change_the_exit_code(run, fuel, tmp_path):
    fuel.archives = {"A": gso_zip(), "B": gso_zip(without=("meshes/model.obj",))}
    code, text, errors = run("gso", "download", "--out", tmp_path, "--server", fuel.url, "--objects", "A,B,C")
    assert code == 1 and "1 of 3 objects" in text and "2 skipped" in text
    assert sorted(line.split(":")[1].strip() for line in errors.splitlines()) == ["B", "C"]


def test_collections_that_cannot_be_had_are_named_and_change_the_exit_code(run, fuel, tmp_path):
    fuel.files["kit"] = kaykit_zip()
    code, text, errors = run("library", tmp_path, "--only", "kaykit/armchair,kaykit/bowl,quaternius",
                             "--archive", f"kaykit={fuel.url}/kit.zip")
    assert code == 1 and "0 of 2 collections" in text and "2 skipped: kaykit, quaternius" in text
    lines = errors.splitlines()
    assert [line.split(":")[0] for line in lines] == ["note", "skipped", "skipped"]
    assert "1 of 2 objects were not in the archives (kaykit/bowl)" in lines[1] and "--archive quaternius=" in lines[2]
    assert (tmp_path / "meshes" / "kaykit" / "armchair.glb").is_file()


def test_rig_is_the_one_asked_for(run, meshes, tmp_path):
    arguments = ("render", meshes / "one.ply", "--out", tmp_path / "a", *SMALL)
    assert run(*arguments)[0] == 0
    views = read_object(tmp_path / "a" / "one")
    assert views.num_orbit_views == 3 and views.depth is not None
    assert torch.allclose(views.cameras.positions.norm(dim=-1), torch.tensor(RADIUS))
    assert torch.allclose(field_of_view(views.cameras), torch.tensor(FOV))
    height = views.cameras.positions[:, 1] / RADIUS
    assert torch.allclose(torch.rad2deg(torch.asin(height)), torch.tensor(10.0), atol=1e-3)
    options = ("--elevation", "random", "--novel", 4, "--no-depth")
    runs = {}
    for seed, out in ((0, "b"), (0, "c"), (1, "d")):
        code, _, _ = run("render", meshes, "--out", tmp_path / out, *SMALL, *options, "--seed", seed)
        assert code == 0
        runs[out] = [read_object(tmp_path / out / name) for name in ("one", "two", "three")]
    assert all(torch.equal(x.cameras.c2w, y.cameras.c2w) for x, y in zip(runs["b"], runs["c"], strict=True))
    assert not torch.equal(runs["b"][0].cameras.c2w, runs["d"][0].cameras.c2w)
    elevations = {round(float(x.cameras.positions[0, 1]), 5) for x in runs["b"]}
    assert len(elevations) == 3
    for views in runs["b"]:
        angles = torch.rad2deg(torch.asin(views.cameras.positions[:, 1] / RADIUS))
        assert len(angles) == 7 and views.num_orbit_views == 3 and views.depth is None
        assert ELEVATION_RANGE[0] <= angles.min() and angles.max() <= ELEVATION_RANGE[1]
        assert angles[:3].std() < 1e-3 < angles[3:].std()


def test_bad_meshes_are_skipped_and_named(run, meshes, tmp_path):
    (meshes / "broken.glb").write_bytes(b"no mesh")
    (meshes / "bare.obj").write_text("mtllib gone.mtl\nv 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n")
    code, text, errors = run("render", meshes, "--out", tmp_path / "out", *SMALL)
    assert code == 1 and "3 of 5 objects" in text and "2 skipped: bare, broken" in text
    lines = errors.splitlines()
    assert len(lines) == 2 and "skipped: bare: " in lines[0] and "gone.mtl" in lines[0] and "broken.glb" in lines[1]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["one", "three", "two"]
    things = tmp_path / "things"
    (things / "nothing").mkdir(parents=True)
    shutil.copytree(meshes, things / "many")
    (things / "fine").mkdir()
    shutil.copy(meshes / "one.ply", things / "fine" / "model.ply")
    code, text, errors = run("render", things, "--out", tmp_path / "out2", *SMALL)
    assert code == 1 and "4 of 7 objects" in text and "3 skipped: bare, broken, nothing" in text
    assert "nothing" in errors and "no mesh in this folder" in errors


def test_bad_folders_are_skipped_and_named(run, tmp_path):
    data = tmp_path / "data"
    assert run("objects", "--out", data, "--count", 6, "--size", 16, "--views", 3, "--novel", 1)[0] == 0
    names = sorted(path.name for path in data.iterdir())
    (data / names[0] / "view_001.png").unlink()
    depth = np.load(data / names[1] / "depth_002.npy")
    depth[0, 0] = np.nan
    np.save(data / names[1] / "depth_002.npy", depth)
    (data / "empty").mkdir()
    for command in (("check", data), ("shards", data, "--out", tmp_path / "shards")):
        code, text, errors = run(*command)
        assert code == 1 and "4 of 7 objects" in text and "3 skipped" in text
        lines = errors.splitlines()
        assert len(lines) == 3 and all(line.startswith("skipped: ") for line in lines)
        assert "empty" in lines[0] and f"{names[0]}/view_001.png" in lines[1] and "depth_002.npy" in lines[2]
    assert [views.name for views in ShardStream(tmp_path / "shards")] == names[2:]


def test_finished_objects_are_kept_and_changes_are_refused(run, meshes, tmp_path):
    out = tmp_path / "out"
    assert run("render", meshes, "--out", out, *SMALL)[0] == 0
    before = stamps(out)
    shutil.rmtree(out / "two")
    (out / "three" / "view_002.png").unlink()
    code, text, _ = run("render", meshes, "--out", out, *SMALL)
    assert code == 0 and "3 of 3 objects" in text
    after = stamps(out)
    assert {path.parent.name for path in before if after[path] != before[path]} == {"two", "three"}
    code, text, errors = run("render", meshes, "--out", out, *SMALL, "--size", 20)
    assert (code, text) == (2, "") and errors.count("\n") == 1 and "size 16 instead of 20" in errors
    assert stamps(out) == after


def test_a_stale_or_damaged_folder_stops_no_other(run, meshes, tmp_path):
    out = tmp_path / "out"
    assert run("render", meshes, "--out", out, *SMALL)[0] == 0
    shutil.rmtree(out / "three")
    (out / "two" / "object.json").write_text("[")
    record = json.loads((out / "one" / "object.json").read_text())
    record["render"]["seed"] = 7
    (out / "one" / "object.json").write_text(json.dumps(record))
    write_object(out / "four", read_object(out / "one"))  # of no mesh: left alone
    shutil.copy(meshes / "one.ply", meshes / "five.ply")
    shutil.copytree(out / "one", out / "five")
    (out / "five" / "object.json").write_text(json.dumps(record | {"render": record["render"] | {"seed": 0}}))
    code, text, errors = run("render", meshes, "--out", out, *SMALL)
    assert code == 1 and "3 of 4 objects" in text and "1 skipped: one" in text
    assert errors.count("\n") == 1 and "one: was made otherwise (seed 7 instead of 0)" in errors
    assert read_object(out / "two").name == "two" and read_object(out / "three").name == "three"


def test_processes_give_what_one_gives(run, meshes, tmp_path):
    for workers in (1, 2):
        (meshes / "bad.ply").write_bytes(b"ply")
        code, text, errors = run("render", meshes, "--out", tmp_path / str(workers), "--size", 16, "--workers", workers)
        assert code == 1 and "3 of 4" in text and "bad.ply" in errors
    for name in ("one", "two", "three"):
        for path in (tmp_path / "1" / name).iterdir():
            assert path.read_bytes() == (tmp_path / "2" / name / path.name).read_bytes()


def test_procedural_objects_are_those_of_the_evaluation(run, tmp_path):
    arguments = ("objects", "--out", tmp_path, "--split", "val", "--start", 2, "--size", 16, "--views", 4, "--novel", 2)
    assert run(*arguments, "--count", 2)[0] == 0
    before = stamps(tmp_path)
    code, text, errors = run(*arguments, "--count", 3)
    assert (code, errors) == (0, "") and "3 of 3 objects" in text
    assert before.items() <= stamps(tmp_path).items()
    memory = held_out_objects("val", 3, 16, 4, novel_views=2, start=2)
    assert find_objects(tmp_path) == ["val_000002", "val_000003", "val_000004"]
    disk = [read_object(tmp_path / name) for name in find_objects(tmp_path)]
    batch = collate(disk)
    assert torch.equal(batch.rgba, memory.rgba) and torch.equal(batch.cameras.c2w, memory.cameras.c2w)
    assert batch.num_orbit_views == 4 and disk[0].info["source"]["procedural"]
    assert (disk[0].depth > 0).float().mean() > 0.02


def test_protocols_and_recipes_can_be_read(run):
    code, text, _ = run("protocols")
    assert code == 0 and [line.split(":")[0] for line in text.splitlines()] == protocol_names()
    code, text, _ = run("protocols", "syncdreamer-30")
    assert code == 0 and "elevation: 30" in text and "sorting_board" in text
    code, text, _ = run("conventions")
    assert code == 0 and "VideoMV (GS): images, splat" in text and len(text.splitlines()) == len(convention_names())
    code, text, _ = run("conventions", "instantmesh")
    assert code == 0 and "licence: Apache-2.0" in text and "--export_texmap" in text and "radius: 4" in text
    for command in ("protocols", "conventions"):
        code, _, errors = run(command, "nothing")
        assert code == 2 and errors.count("\n") == 1 and "expected one of" in errors


def test_meshes_that_lack_pictures_fail_or_are_drawn_without_or_left_out(run, meshes, tmp_path):
    (meshes / "bare.obj").write_text("mtllib bare.mtl\nv 0 0 0\nv 1 0 0\nv 0 1 0\nvt 0 0\nusemtl a\nf 1/1 2/1 3/1\n")
    (meshes / "bare.mtl").write_text("newmtl a\nKd 1 0 0\nmap_Kd gone.png\n")
    for choice, code, made, word in (("error", 1, 3, "skipped: bare: "), ("skip", 0, 3, "left out: bare: "),
                                     ("grey", 0, 4, "note: bare: ")):
        out = tmp_path / choice
        found, text, errors = run("render", meshes, "--out", out, *SMALL, "--missing-textures", choice)
        assert found == code and errors.startswith(word) and "gone.png" in errors and errors.count("\n") == 1
        assert f"{made} of 4 objects" in text and (out / "bare").is_dir() == (choice == "grey")
    assert run("render", meshes, "--out", tmp_path / "skip", *SMALL)[0] == 1  # goes on where the other one was
    code, _, errors = run("render", meshes, "--out", tmp_path / "grey", *SMALL)
    assert code == 2 and "missing_textures grey instead of error" in errors
    assert run("render", meshes, "--out", tmp_path / "x", *SMALL, "--missing-textures", "pink")[0] == 2


def test_interrupted_rendering_goes_on(run, meshes, tmp_path, monkeypatch):
    for number in range(3):
        shutil.copy(meshes / "three.ply", meshes / f"copy_{number:02d}.ply")
    out, write_bytes = tmp_path / "out", Path.write_bytes

    def interrupted(path, data):  # in the middle of the third object
        count = write_bytes(path, data)
        if path.name == "view_001.png" and len(list(out.glob("[!.]*"))) == 2:
            signal.raise_signal(signal.SIGINT)
        return count

    monkeypatch.setattr(Path, "write_bytes", interrupted)
    code, _, errors = run("render", meshes, "--out", out, *SMALL)
    monkeypatch.undo()
    assert code == 130 and errors.count("interrupted") == 1 and len(errors.splitlines()) <= 2
    before = stamps(out)
    assert len(list(out.iterdir())) == 2  # no hidden ones
    code, text, _ = run("render", meshes, "--out", out, *SMALL)
    assert code == 0 and "6 of 6 objects" in text
    assert before.items() <= stamps(out).items() and len(list(out.iterdir())) == 6
    assert json.loads((out / "one" / "object.json").read_text())["render"]["size"] == 16


@pytest.mark.skipif(shutil.which("pgrep") is None, reason="needs pgrep")
@pytest.mark.parametrize("blow, size, count", [("interrupt", 32, 3), ("kill", 512, 2)])  # one mesh is left to a kill
def test_workers_end_quietly_with_the_first_process(meshes, tmp_path, blow, size, count):
    """Ctrl-C reaches them while they still import torch; a killed parent cannot end them."""
    command = [sys.executable, "-m", "ouroboros_lib", "data", "render", str(meshes), "--out", str(tmp_path / "out"),
               "--size", str(size), "--workers", str(count)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                               start_new_session=True, env={**os.environ, "OMP_WAIT_POLICY": "passive"})
    deadline = time.monotonic() + 200

    def workers():
        found = subprocess.run(["pgrep", "-g", str(process.pid), "-f", "spawn_main"], capture_output=True, text=True)
        return found.stdout.split()

    while len(workers()) < count and time.monotonic() < deadline:
        time.sleep(0.02)
    if blow == "kill":
        while not list(tmp_path.glob("out/*/object.json")) and time.monotonic() < deadline:
            time.sleep(0.02)
        process.kill()
    else:
        os.killpg(process.pid, signal.SIGINT)
    struck = time.monotonic()
    _, errors = process.communicate(timeout=200)
    assert process.returncode == (-9 if blow == "kill" else 130) and "Traceback" not in errors
    assert time.monotonic() - struck < 28  # force takes 5 s each at most; were there none, 10 s each would be waited
    while workers() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not workers() and (blow == "kill" or not list((tmp_path / "out").glob(".*")))


BAD = {
    "no mesh": ["render", "{tmp}/none.obj", "--out", "{tmp}/out"],
    "empty folder": ["render", "{tmp}", "--out", "{tmp}/out"],
    "size": ["render", "{mesh}", "--out", "{tmp}/out", "--size", "1"],
    "views": ["render", "{mesh}", "--out", "{tmp}/out", "--views", "0"],
    "elevation": ["render", "{mesh}", "--out", "{tmp}/out", "--elevation", "up"],
    "steep": ["render", "{mesh}", "--out", "{tmp}/out", "--elevation", "nan"],
    "up": ["render", "{mesh}", "--out", "{tmp}/out", "--up", "x"],
    "texture": ["render", "{mesh}", "--out", "{tmp}/out", "--texture", "{tmp}/none.png"],
    "out is a file": ["render", "{mesh}", "--out", "{mesh}"], "no out": ["render", "{mesh}"],
    "split": ["objects", "--out", "{tmp}/out", "--split", "all"],
    "count": ["objects", "--out", "{tmp}/out", "--count", "0"],
    "server": ["gso", "download", "--out", "{tmp}/out", "--server", "ftp://x"],
    "both": ["gso", "download", "--out", "{tmp}/out", "--all", "--objects", "A"],
    "names": ["gso", "download", "--out", "{tmp}/out", "--objects", "../x"],
    "no names": ["gso", "download", "--out", "{tmp}/out", "--objects", ","],
    "workers": ["gso", "download", "--out", "{tmp}/out", "--workers", "0"],
    "collection": ["library", "{tmp}/out", "--only", "toys"], "library's out": ["library", "{mesh}"],
    "archive": ["library", "{tmp}/out", "--archive", "kaykit={tmp}/none.zip"],
    "archive of another": ["library", "{tmp}/out", "--only", "kaykit", "--archive", "quaternius={mesh}"],
    "no folder": ["check", "{tmp}/none"], "no views": ["shards", "{tmp}", "--out", "{tmp}/out"],
    "shard size": ["shards", "{tmp}", "--out", "{tmp}/out", "--shard-mb", "0"], "unknown": ["objects", "--colour"],
}


@pytest.mark.parametrize("name", BAD)
def test_bad_options(run, meshes, tmp_path, name):
    empty = tmp_path / "empty"
    empty.mkdir()
    arguments = [text.format(tmp=empty, mesh=meshes / "one.ply") for text in BAD[name]]
    before = sorted(tmp_path.rglob("*"))
    code, text, errors = run(*arguments)
    assert (code, text) == (2, "") and errors.startswith("error: ") and errors.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_what_training_never_sees_is_rendered_by_itself(run, meshes, tmp_path):
    code, text, errors = run("render", meshes, "--out", tmp_path / "out", *SMALL, "--held-out", 1, "--no-depth")
    assert (code, errors) == (0, "") and "1 of 1 objects" in text
    assert find_objects(tmp_path / "out") == held_out(["one", "two", "three"], 1)
    assert read_object(tmp_path / "out" / find_objects(tmp_path / "out")[0]).depth is None
