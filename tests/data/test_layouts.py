"""Meshes where the known data sets keep them, and what each is called."""

import pytest

from ouroboros_lib.data.layouts import find_meshes, holds_meshes
from ouroboros_lib.data.mesh_files import find_mesh
from ouroboros_lib.errors import InputError

TRIANGLE = "v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n"


def fill(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(TRIANGLE)


LAYOUTS = {
    "ShapeNetCore.v2": ({"id1": "id1/models/model_normalized.obj", "id2": "id2/models/model_normalized.obj"},
                        ["id1/images/texture0.jpg", "id1/models/model_normalized.json"]),
    "ShapeNet with synsets": ({"a1": "02691156/a1/models/model_normalized.obj",
                               "b2": "03001627/b2/models/model_normalized.obj"}, ["taxonomy.json"]),
    "ShapeNetCore.v1": ({"a1": "02691156/a1/model.obj"}, ["02691156/a1/images/texture0.jpg"]),
    "OmniObject3D": ({"apple_001": "apple_001/Scan/Scan.obj", "apple_002": "apple_002/Scan/Scan.obj"},
                     ["apple_001/Scan/Scan.jpg"]),
    "OmniObject3D by class": ({"apple_001": "apple/apple_001/Scan/Scan.obj", "pen_1": "pen/pen_1/Scan/Scan.obj"}, []),
    "Objaverse": ({"0a1b": "glbs/000-023/0a1b.glb", "9f": "glbs/000-151/9f.glb"}, ["metadata/000-023.json.gz"]),
    "Sketchfab": ({"old_boat": "old_boat/scene.gltf", "cup": "cup/source/model.obj"},
                  ["old_boat/scene.bin", "old_boat/textures/a.png", "cup/textures/a.png", "cup/license.txt"]),
    "GSO": ({"Thing_1": "Thing_1/meshes/model.obj"}, ["Thing_1/materials/textures/a.png", "Thing_1/model.config"]),
    "YCB": ({"002_can": "002_can/google_16k/textured.obj"}, ["002_can/google_16k/texture_map.png",
                                                             "002_can/google_16k/nontextured.ply"]),
    "several formats": ({"thing": "thing.glb"}, ["thing.obj", "thing.ply"]),
    "a zip from a Mac": ({"a": "a/model.ply"}, ["__MACOSX/a/._model.ply", ".DS_Store", "a/._model.ply"]),
    "names that differ above": ({"one/chair": "one/chair.obj", "two/chair": "two/chair.obj"}, []),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_known_layouts(tmp_path, name):
    objects, others = LAYOUTS[name]
    fill(tmp_path / "set", *objects.values(), *others)
    expected = {name: tmp_path / "set" / path for name, path in objects.items()}
    assert find_meshes([tmp_path / "set"]) == expected and holds_meshes(tmp_path / "set")
    assert find_meshes(expected.values()) == expected  # named one by one


def test_folders_without_meshes(tmp_path, caplog):
    fill(tmp_path, "a/model.ply", "notes/readme.txt", "textures/a.png", "lost/model.mtl")
    (tmp_path / "empty").mkdir()
    (tmp_path / "loop").symlink_to(tmp_path, target_is_directory=True)
    assert set(find_meshes([tmp_path])) == {"a", "empty", "lost"}  # rendering says what is wrong with the last two
    assert [record.getMessage() for record in caplog.records] == [f"{tmp_path}: no meshes in notes, textures: left out"]
    with pytest.raises(InputError, match="no mesh in this folder"):
        find_mesh(tmp_path / "lost")


def test_a_folder_of_views_holds_no_meshes(tmp_path):
    fill(tmp_path, "thing/cameras.json", "thing/mesh.ply")
    assert not holds_meshes(tmp_path)


def test_meshes_are_found_by_name(tmp_path):
    for name in ("a.ply", "b.ply", "deep/c/model.ply", "deep/d/meshes/model.ply"):
        fill(tmp_path, name)
    (tmp_path / "deep" / "nothing").mkdir()
    assert set(find_meshes([tmp_path])) == {"a", "b"}
    assert set(find_meshes([tmp_path / "deep", tmp_path / "a.ply"])) == {"a", "c", "d", "nothing"}
    fill(tmp_path, "deep/a.ply")
    assert list(find_meshes([tmp_path / "a.ply", tmp_path / "deep" / "a.ply"])) == ["a", "deep/a"]
    fill(tmp_path, "p/a/leg.ply", "p/b/leg.ply", "q/a.ply")
    with pytest.raises(InputError, match="inside the object"):
        find_meshes([tmp_path / "p", tmp_path / "q"])
    for missing in (tmp_path / "deep" / "nothing", tmp_path / "not_there", tmp_path / "deep" / "c" / "x.txt"):
        with pytest.raises(InputError):
            find_meshes([missing])
