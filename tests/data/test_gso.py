"""Google Scanned Objects from a server that behaves like Fuel: broken lines, wrong sizes, malicious archives."""

import hashlib
import json
import os
import re
import signal
import stat
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
from fuel import Fuel, gso_zip

from ouroboros_lib.data import fetching, gso
from ouroboros_lib.data.meshes import load_mesh
from ouroboros_lib.errors import InputError


@pytest.fixture
def fuel():
    server = Fuel()
    yield server
    server.close()


@pytest.fixture
def how(fuel):
    return gso.Download(server=fuel.url, workers=4, tries=4, timeout=30, pause=0.01)


def download(names, out, how):
    """Names that came and {name: error} of those that did not."""
    came, failed = [], {}
    gso.download_objects(names, out, how, done=lambda name, error: came.append(name) if error is None
                         else failed.update({name: str(error)}))
    return sorted(came), failed


def files_of(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_the_list_of_the_evaluation():
    names = gso.evaluation_objects()
    assert len(names) == len(set(names)) == 100 and not any(map(gso.check_name, names))
    assert "Android_Figure_Panda" in names


def test_objects_arrive_whole_with_manifest_and_licence(fuel, how, tmp_path):
    fuel.redirect = True
    fuel.archives = {f"Thing_{i}": gso_zip(i) for i in range(5)}
    assert download(fuel.archives, tmp_path, how) == (sorted(fuel.archives), {})
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        gso.ATTRIBUTION_FILE, *sorted(fuel.archives), gso.MANIFEST]
    manifest = json.loads((tmp_path / gso.MANIFEST).read_text())
    assert manifest["licence"] == "CC-BY-4.0" and "Downs" in (tmp_path / gso.ATTRIBUTION_FILE).read_text()
    assert manifest["objects"] == 5 and manifest["bytes"] == sum(map(len, fuel.archives.values()))
    for name, data in fuel.archives.items():
        entry = manifest["models"][name]
        assert entry["sha256"] == hashlib.sha256(data).hexdigest() and entry["bytes"] == len(data)
        assert entry["url"] == f"{fuel.url}/{name}.zip"
        for path, about in entry["files"].items():
            content = (tmp_path / name / path).read_bytes()
            assert about == {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        assert files_of(tmp_path / name) == sorted([*entry["files"], gso.RECORD])
    mesh = load_mesh(tmp_path / "Thing_0")
    assert mesh.name == "Thing_0" and mesh.up == "z" and mesh.parts[0].texture.shape == (64, 64, 3)


def test_what_is_there_is_not_fetched_again(fuel, how, tmp_path):
    fuel.archives = {f"Thing_{i}": gso_zip(i) for i in range(3)}
    download(fuel.archives, tmp_path, how)
    (tmp_path / "Thing_1" / "meshes" / "model.obj").write_bytes(b"cut")  # another size
    assert download(fuel.archives, tmp_path, gso.Download(server=fuel.url)) == (sorted(fuel.archives), {})
    assert fuel.requests == {"Thing_0": 1, "Thing_1": 2, "Thing_2": 1}
    assert (tmp_path / "Thing_1" / "meshes" / "model.obj").stat().st_size > 3


@pytest.mark.parametrize("moods", [["break"], ["short", "break"], ["stall"], ["garbage"], [503, 429, 500],
                                   ["break", 503, "short"]], ids=str)
def test_bad_lines_are_mended(fuel, how, tmp_path, moods):
    fuel.archives = {"Thing": gso_zip()}
    fuel.moods = {"Thing": list(moods)}
    how.timeout = 1 if "stall" in moods else 30
    assert download(["Thing"], tmp_path, how) == (["Thing"], {})
    record = json.loads((tmp_path / "Thing" / gso.RECORD).read_text())
    assert record["sha256"] == hashlib.sha256(fuel.archives["Thing"]).hexdigest()
    assert not list(tmp_path.glob(".*"))


def test_failures_are_named_and_the_others_come(fuel, how, tmp_path):
    fuel.archives = {name: gso_zip() for name in ("Good_1", "Good_2", "Down", "Broken")}
    fuel.moods = {"Down": 503, "Broken": "garbage"}
    came, failed = download(["Good_1", "Nowhere", "Down", "Broken", "Good_2"], tmp_path, how)
    assert came == ["Good_1", "Good_2"]
    assert "Nowhere: " in failed["Nowhere"] and "404" in failed["Nowhere"]
    assert "503" in failed["Down"] and "given up after 4 tries" in failed["Down"]
    assert "given up after 4 tries" in failed["Broken"]
    assert fuel.requests["Nowhere"] == 1 and fuel.requests["Down"] == fuel.requests["Broken"] == 4
    assert all("\n" not in error for error in failed.values())
    assert set(json.loads((tmp_path / gso.MANIFEST).read_text())["models"]) == {"Good_1", "Good_2"}
    assert {path.name for path in tmp_path.iterdir() if path.is_dir()} == {"Good_1", "Good_2"}


def link(target):
    member = zipfile.ZipInfo("meshes/link")
    member.create_system, member.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    return member, target


def raw(name):
    member = zipfile.ZipInfo("x")
    member.filename = name
    return member


OUTSIDE = {
    "above": [("../../evil.txt", b"x")], "inside and above": [("meshes/../../evil.txt", b"x")],
    "absolute": [(raw("/tmp/evil.txt"), b"x")], "link": [link("/etc")], "twice": [("Meshes/Model.obj", b"x")],
}
REFUSED = {
    "through a link": ([link("../.."), ("meshes/link/evil.txt", b"x")], "cannot be unpacked"),
    "file as folder": ([("model.config/evil.txt", b"x")], "cannot be unpacked"),
    "bomb": ([("big", bytes(300_000))], "unpacks to"), "many": ([(f"f{i}", b"") for i in range(60)], "unpacks to"),
}


@pytest.mark.parametrize("name", OUTSIDE)
def test_every_member_of_an_archive_stays_in_its_folder(fuel, how, tmp_path, name):
    fuel.archives = {"Evil": gso_zip(extra=OUTSIDE[name])}
    out = tmp_path / "a" / "b" / "out"
    assert download(["Evil"], out, how) == (["Evil"], {})
    assert {path.name for path in out.iterdir()} == {"Evil", gso.MANIFEST, gso.ATTRIBUTION_FILE}
    assert all(path.is_relative_to(out / "Evil") for path in tmp_path.rglob("*evil*"))
    assert not Path("/tmp/evil.txt").exists() and not any(path.is_symlink() for path in tmp_path.rglob("*"))


@pytest.mark.parametrize("name", REFUSED)
def test_malicious_archives_are_refused(fuel, how, tmp_path, monkeypatch, name):
    monkeypatch.setattr(fetching, "MAX_BYTES", 200_000)
    monkeypatch.setattr(gso, "MAX_MEMBERS", 50)
    extra, reason = REFUSED[name]
    fuel.archives = {"Evil": gso_zip(extra=extra), "Good": gso_zip(1)}
    came, failed = download(["Evil", "Good"], tmp_path, how)
    assert came == ["Good"] and failed["Evil"].startswith("Evil: ") and reason in failed["Evil"]
    assert fuel.requests["Evil"] == 1  # another try would not make it better
    assert {path.name for path in tmp_path.iterdir()} == {"Good", gso.MANIFEST, gso.ATTRIBUTION_FILE}


@pytest.mark.parametrize("lacks", ["meshes/model.obj", "meshes/model.mtl", "materials/textures/texture.png"])
def test_incomplete_archives_are_refused(fuel, how, tmp_path, lacks):
    fuel.archives = {"Thing": gso_zip(without=(lacks,))}
    assert download(["Thing"], tmp_path, how)[1] == {"Thing": f"Thing: its archive lacks {lacks}"}


def test_endless_answers_are_cut(fuel, how, tmp_path, monkeypatch):
    monkeypatch.setattr(fetching, "MAX_BYTES", 5000)
    fuel.archives = {"Thing": gso_zip()}
    assert "more than 5000 bytes" in download(["Thing"], tmp_path, how)[1]["Thing"]


def test_names_of_all_pages(fuel, how, tmp_path):
    fuel.archives = dict.fromkeys((f"Thing_{i}" for i in range(8)), b"")
    assert gso.all_objects(how) == sorted(fuel.archives)
    fuel.archives = {}
    with pytest.raises(InputError, match="lists no objects"):
        gso.all_objects(how)
    fuel.archives = {"../../evil": b"", "Good_1": gso_zip()}
    assert "not a name" in download(gso.all_objects(how), tmp_path, how)[1]["../../evil"]
    assert (tmp_path / "Good_1" / gso.RECORD).is_file()


def test_a_list_of_another_kind_is_told_at_once(fuel, how, monkeypatch):
    for answer, word in ((b'{"error": 1}', "expected a list, got an object"), (b'[{"name": 5}]', "[0].name: expected"),
                         (b"null", "expected a list")):
        monkeypatch.setattr(fetching, "read", lambda url, how, answer=answer: answer)
        with pytest.raises(InputError, match=re.escape(word)):
            gso.all_objects(how)


@pytest.mark.parametrize("name", ["..", ".hidden", "a/b", "", "a\\b", "x" * 300, "a b\n"])
def test_names_that_are_no_folder(name):
    with pytest.raises(InputError, match="not a name"):
        gso.check_name(name)


def test_servers_that_are_not_there(tmp_path):
    with pytest.raises(InputError, match="http"):
        gso.Download(server="file:///etc")
    nowhere = gso.Download(1, 2, 0.5, 0.01, server="http://127.0.0.1:9/models")
    with pytest.raises(InputError, match="given up after 2 tries"):
        gso.all_objects(nowhere)
    assert "given up" in download(["Thing"], tmp_path, nowhere)[1]["Thing"]


@pytest.mark.parametrize("blow", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda blow: blow.name)
def test_interrupted_and_resumed_without_loss_or_repetition(fuel, tmp_path, blow):
    fuel.archives = {f"Thing_{i}": gso_zip(i) for i in range(6)}
    fuel.delay = 0.05
    command = [sys.executable, "-m", "ouroboros_lib", "data", "gso", "download", "--out", str(tmp_path / "out"),
               "--all", "--server", fuel.url, "--workers", "2"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                               env={**os.environ, "OMP_WAIT_POLICY": "passive"})
    deadline = time.monotonic() + 100
    while time.monotonic() < deadline and len(list((tmp_path / "out").glob("Thing_*"))) < 2:
        time.sleep(0.005)
    fuel.delay = 0.5  # the others cannot all come before the blow acts
    process.send_signal(blow)
    _, errors = process.communicate(timeout=100)
    assert process.returncode == {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGKILL: -9}[blow]
    assert "Traceback" not in errors
    finished = {path.name for path in (tmp_path / "out").glob("Thing_*")}
    assert 2 <= len(finished) < 6
    if blow != signal.SIGKILL:
        manifest = json.loads((tmp_path / "out" / gso.MANIFEST).read_text())
        assert set(manifest["models"]) == finished
    fuel.delay, before = 0.0, dict(fuel.requests)
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0 and "6 of 6 objects" in done.stdout
    assert all(fuel.requests[name] == before[name] for name in finished)  # none of these again
    assert set(json.loads((tmp_path / "out" / gso.MANIFEST).read_text())["models"]) == set(fuel.archives)
    assert not list((tmp_path / "out").glob(".*"))
