"""The library of free meshes from a server and from archives: broken lines, wrong sums, missing and evil things."""

import csv
import hashlib
import json
from pathlib import Path

import pytest
from fuel import Fuel
from library_inputs import furniture_zip, glb, kaykit_zip, obj, picture, tarred, zipped
from PIL import Image

from ouroboros_lib.data import archives, library
from ouroboros_lib.data.fetching import Fetch
from ouroboros_lib.data.layouts import find_meshes
from ouroboros_lib.data.meshes import load_mesh
from ouroboros_lib.errors import InputError

ROOT = Path(__file__).parents[2] / "ouroboros_lib"
TWO = ["kaykit/armchair", "kaykit/bed_double_A"]


@pytest.fixture
def fuel():
    server = Fuel()
    server.files["kit"] = kaykit_zip()
    yield server
    server.close()


@pytest.fixture
def how():
    return Fetch(tries=4, timeout=30, pause=0.01)


def bring(out, how, only, *given):
    """{collection: (notes, error or None)}."""
    found = {}
    library.fetch_library(library.choose(only), library.parse_archives(given), out, how,
                          lambda name, notes, error: found.update({name: (notes, error and str(error))}))
    return found


def rows(path):
    return list(csv.reader(path.read_text().splitlines()))


def test_the_table_is_small_and_that_of_the_weights():
    path = ROOT / "data" / "library.csv"
    assert path.stat().st_size < 300_000
    table = rows(path)
    assert [row[:3] for row in table] == rows(ROOT / "presets" / "weights" / "small" / "ATTRIBUTION.csv")
    assert {mesh.licence for mesh in library.meshes().values()} == {"CC0-1.0", "CC-BY-3.0"}
    assert all(len(bytes.fromhex(mesh.sha256)) == 32 for mesh in library.meshes().values())
    assert {name.split("/")[0] for name in library.meshes()} | {library.SWATCHES} == set(library.collections())
    assert all(url.startswith("https://") for about in library.collections().values()
               for url in (about["home"], *about["addresses"]))


def test_objects_come_from_an_address_with_their_licences(fuel, how, tmp_path):
    assert bring(tmp_path, how, TWO, f"kaykit={fuel.url}/kit.zip") == {
        "kaykit": (["2 meshes, 0 of them byte for byte as the weights saw them"], None)}
    folder = tmp_path / "meshes" / "kaykit"
    assert sorted(path.name for path in folder.iterdir()) == ["ATTRIBUTION.csv", "armchair.glb", "bed_double_A.glb"]
    table = rows(folder / "ATTRIBUTION.csv")
    assert [row[:3] for row in table[1:]] == [[name, "Kay Lousberg", "CC0-1.0"] for name in TWO]
    assert find_meshes([tmp_path / "meshes"]).keys() == {"armchair", "bed_double_A"}
    assert load_mesh(folder / "armchair.glb").parts[0].texture.shape == (64, 64, 3)
    assert load_mesh(folder / "bed_double_A.glb").parts[0].texture is None  # .glb before .obj
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    (archive,) = manifest["archives"].values()
    assert archive == {"bytes": len(fuel.files["kit"]), "sha256": hashlib.sha256(fuel.files["kit"]).hexdigest()}
    for name in TWO:
        data = (tmp_path / "meshes" / f"{name}.glb").read_bytes()
        assert manifest["objects"]["kaykit"][name] == {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    assert not list(tmp_path.rglob(".*"))


def test_what_is_there_is_not_brought_again(fuel, how, tmp_path):
    first = bring(tmp_path, how, TWO, f"kaykit={fuel.url}/kit.zip")
    armchair = tmp_path / "meshes" / "kaykit" / "armchair.glb"
    whole = armchair.read_bytes()
    before = (tmp_path / "meshes" / "kaykit" / "bed_double_A.glb").stat().st_mtime_ns
    armchair.write_bytes(whole[:-10])
    assert bring(tmp_path, how, TWO, f"kaykit={fuel.url}/kit.zip") == first
    assert armchair.read_bytes() == whole and fuel.requests == {"kit": 1}
    assert (tmp_path / "meshes" / "kaykit" / "bed_double_A.glb").stat().st_mtime_ns == before
    assert bring(tmp_path, how, TWO, "kaykit=http://127.0.0.1:9/kit.zip") == first  # nobody is asked


@pytest.mark.parametrize("moods", [["break"], ["short", "stall"], ["garbage", 503]], ids=str)
def test_bad_lines_are_mended(fuel, how, tmp_path, moods):
    fuel.moods = {"kit": list(moods)}
    how.timeout = 1 if "stall" in moods else 30
    assert bring(tmp_path, how, TWO, f"kaykit={fuel.url}/kit.zip")["kaykit"][1] is None
    assert fuel.requests == {"kit": len(moods) + 1}


def test_wrong_sums_are_refused(fuel, how, tmp_path):
    url, right = f"{fuel.url}/kit.zip", hashlib.sha256(fuel.files["kit"]).hexdigest()
    error = bring(tmp_path, how, TWO, f"kaykit={url}#sha256={'0' * 64}")["kaykit"][1]
    assert f"its SHA-256 is {right}, not 0000" in error and "given up after 4 tries" in error and "--archive" in error
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.json"]
    assert bring(tmp_path, how, TWO, f"kaykit={url}#sha256={right}")["kaykit"][1] is None


def test_what_is_not_there_is_named_and_the_others_come(fuel, how, tmp_path, monkeypatch):
    monkeypatch.setitem(library.collections()["kaykit"], "addresses",
                        [f"{fuel.url}/gone.zip", f"{fuel.url}/kit.zip"])
    pack = tmp_path / "packs.tgz"
    pack.write_bytes(tarred({f"package/{name}": data for name, data in obj("crops_pack/Apple_1").items()}))
    wanted = [*TWO, "kaykit/bowl", "quaternius/crops_pack_Apple_1", "quaternius/crops_pack_Apple_2", "sweethome3d"]
    found = bring(tmp_path / "out", how, wanted, f"quaternius={pack}")
    assert "gone.zip: HTTP 404" in found["kaykit"][1] and "--archive kaykit=FILE" in found["kaykit"][1]
    assert found["kaykit"][0][0].startswith("2 meshes") and fuel.requests == {"gone": 1, "kit": 1}
    assert found["quaternius"][1] == ("quaternius: 1 of 2 objects were not in the archives "
                                      "(quaternius/crops_pack_Apple_2)")
    assert "no address of its own" in found["sweethome3d"][1] and "sourceforge.net" in found["sweethome3d"][1]
    assert find_meshes([tmp_path / "out" / "meshes"]).keys() == {"armchair", "bed_double_A", "crops_pack_Apple_1"}
    assert len(rows(tmp_path / "out" / "meshes" / "quaternius" / "ATTRIBUTION.csv")) == 2


def test_furniture_is_found_by_its_catalogue(how, tmp_path):
    (tmp_path / "3DModels.zip").write_bytes(furniture_zip())
    found = bring(tmp_path / "out", how, ["sweethome3d/Scopia_desk_table", "sweethome3d/Scopia_bar_table"],
                  f"sweethome3d={tmp_path / '3DModels.zip'}")
    assert found["sweethome3d"][1] is None
    assert [row[2] for row in rows(tmp_path / "out/meshes/sweethome3d/ATTRIBUTION.csv")[1:]] == ["CC-BY-3.0"] * 2


def test_the_files_that_the_weights_saw_stay_as_they_are(how, tmp_path, monkeypatch):
    data = glb(3)
    row = library.meshes()[TWO[0]]._replace(sha256=hashlib.sha256(data).hexdigest())
    monkeypatch.setitem(library.meshes(), TWO[0], row)
    (tmp_path / "kaykit").mkdir()
    (tmp_path / "kaykit" / "armchair.glb").write_bytes(data)
    (tmp_path / "kaykit" / "bed_double_A.glb").write_bytes(data[:200])  # damaged
    notes, error = bring(tmp_path / "out", how, TWO, f"kaykit={tmp_path}")["kaykit"]
    assert notes == ["1 meshes, 1 of them byte for byte as the weights saw them"]
    assert (tmp_path / "out" / "meshes" / "kaykit" / "armchair.glb").read_bytes() == data
    assert "1 of 2 objects" in error and "bed_double_A: " in error and str(tmp_path) not in error


def test_swatches_are_reduced(how, tmp_path):
    (tmp_path / "wood.zip").write_bytes(zipped({
        "Wood051_1K-JPG_Color.jpg": picture(300, kind="JPEG"), "broken_Color.png": b"none",
        "Wood051_1K-JPG_Roughness.jpg": picture(300, kind="JPEG")}))
    notes, error = bring(tmp_path / "out", how, ["ambientcg"], f"ambientcg={tmp_path / 'wood.zip'}")["ambientcg"]
    assert error is None and notes[0].startswith("broken_Color.png left out") and notes[1].startswith("1 pictures")
    folder = tmp_path / "out" / "textures" / "ambientcg"
    assert sorted(path.name for path in folder.iterdir()) == ["ATTRIBUTION.csv", "Wood051_1K-JPG_Color.jpg"]
    assert Image.open(folder / "Wood051_1K-JPG_Color.jpg").size == (128, 128)
    small = picture(100, kind="JPEG")
    (tmp_path / "small.zip").write_bytes(zipped({"Small.jpg": small}))
    assert bring(tmp_path / "out", how, ["ambientcg"], f"ambientcg={tmp_path / 'small.zip'}")["ambientcg"][1] is None
    assert (folder / "Small.jpg").read_bytes() == small and len(rows(folder / "ATTRIBUTION.csv")) == 3


@pytest.mark.parametrize("data", [
    zipped({"../../evil.obj": b"x", "/evil.obj": b"x", **obj("armchair")}),
    tarred({"../../evil.obj": b"x", "/evil.obj": b"x", **obj("armchair")}, [("evil.glb", "/etc/passwd")])],
    ids=["zip", "tar"])
def test_nothing_leaves_the_folder(tmp_path, data):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "evil.zip").write_bytes(data)
    archives.unpack(tmp_path / "a" / "evil.zip", tmp_path / "a" / "in")
    assert sorted(path.name for path in tmp_path.rglob("*.*")) == ["armchair.mtl", "armchair.obj", "armchair.png",
                                                                  "evil.obj", "evil.zip"]
    assert not any(path.is_symlink() for path in tmp_path.rglob("*")) and not Path("/evil.obj").exists()


@pytest.mark.parametrize("name, reason", [
    ("bomb", "more than 50 files or 100000 bytes"), ("many", "more than 50"), ("inner bomb", "more than 50"),
    ("not one", "cannot be unpacked"), ("damaged", "cannot be unpacked"), ("file as folder", "cannot be unpacked")])
def test_bad_archives_are_refused(how, tmp_path, monkeypatch, name, reason):
    monkeypatch.setattr(archives, "MOST_FILES", 50)
    monkeypatch.setattr(archives, "MOST_BYTES", 100_000)
    bomb, kit = {"big.obj": bytes(200_000)}, kaykit_zip()
    data = {"bomb": zipped(bomb), "many": zipped({f"{i}.obj": b"" for i in range(60)}),
            "inner bomb": zipped({"inner.zip": zipped(bomb)}), "not one": b"nothing",
            "damaged": kit[:100] + bytes(60) + kit[160:],
            "file as folder": zipped({"a.obj": b"", "a.obj/b.obj": b""})}
    (tmp_path / "kit.zip").write_bytes(data[name])
    error = bring(tmp_path / "out", how, TWO, f"kaykit={tmp_path / 'kit.zip'}")["kaykit"][1]
    assert "kit.zip: " in error and reason in error and "\n" not in error
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["manifest.json"]


def test_names_and_archives_that_are_none(tmp_path):
    with pytest.raises(InputError, match="--only toys: expected collections"):
        library.choose(["toys"])
    for text in ("kaykit", f"toys={tmp_path}", f"kaykit={tmp_path / 'none.zip'}", "kaykit=ftp://x/y.zip"):
        with pytest.raises(InputError, match=f"^--archive {text}: "):
            library.parse_archives([text])
