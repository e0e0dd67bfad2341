"""Protocols: what their files state, what is refused, and data sets that know which protocol they were made for."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import trimesh

from ouroboros_lib.cameras import ELEVATION_RANGE, evenly_spaced_orbit, field_of_view
from ouroboros_lib.cli.main import main
from ouroboros_lib.data.folders import read_object
from ouroboros_lib.data.renders import render_meshes, render_to_folder
from ouroboros_lib.errors import InputError
from ouroboros_lib.evaluation.conventions import convention_names, load_convention
from ouroboros_lib.evaluation.methods import Files
from ouroboros_lib.evaluation.protocols import FOLDER, load_protocol, protocol_names
from ouroboros_lib.evaluation.sources import Folder


def elevations(cameras):
    return torch.rad2deg(torch.asin(cameras.positions[:, 1] / cameras.positions.norm(dim=-1)))


def azimuths(cameras):
    return torch.rad2deg(torch.atan2(cameras.positions[:, 0], cameras.positions[:, 2])) % 360


def test_the_three_protocols_are_there_and_say_where_they_come_from():
    assert protocol_names() == ["ouroboros-orbit", "released", "syncdreamer-30"]
    for name in protocol_names():
        protocol = load_protocol(name)
        assert protocol.name == name and protocol.source and protocol.about
        assert protocol.label(protocol.size()) == f"{name}-v{protocol.version}-{protocol.sizes[0]}"
        cameras = protocol.cameras("thing")
        assert cameras.shape == (len(protocol.azimuths) + len(protocol.novel),)
        torch.testing.assert_close(field_of_view(cameras), torch.full(cameras.shape, protocol.fov))
        torch.testing.assert_close(cameras.positions.norm(dim=-1), torch.full(cameras.shape, protocol.radius))
        assert azimuths(cameras)[protocol.input_view] < 1e-3


def test_ours_is_the_rig_of_the_models_with_novel_cameras():
    protocol = load_protocol("ouroboros-orbit")
    cameras = protocol.cameras("any")
    torch.testing.assert_close(cameras.views(slice(8)).c2w, evenly_spaced_orbit(8, 10.0).c2w)
    assert protocol.primary_views == tuple(range(1, 8)) and protocol.sizes == (256, 512)
    apart = torch.cdist(cameras.positions[8:], cameras.positions[:8])
    assert len(apart) == 4 and apart.min() > 0.5
    low, high = ELEVATION_RANGE
    assert (elevations(cameras) > low).all() and (elevations(cameras) < high).all()


def test_released_pools_all_views_and_draws_elevations_by_name():
    protocol = load_protocol("released")
    assert protocol.primary_views == tuple(range(8))
    a, again, b = (protocol.cameras(name) for name in ("a", "a", "b"))
    assert azimuths(a)[7].item() == pytest.approx(337.5, abs=1e-3)
    torch.testing.assert_close(a.c2w, again.c2w)
    assert (elevations(a) - elevations(a)[0]).abs().max() < 1e-3 and abs(elevations(a)[0] - elevations(b)[0]) > 0.1


def test_syncdreamers():
    protocol = load_protocol("syncdreamer-30")
    assert len(protocol.objects) == len(set(protocol.objects)) == 30
    cameras = protocol.cameras("alarm")
    torch.testing.assert_close(azimuths(cameras), torch.arange(16) * 22.5, atol=1e-3, rtol=0)
    torch.testing.assert_close(elevations(cameras), torch.full((16,), 30.0))


def test_syncdreamers_objects_are_seen_from_the_side_that_it_saw(tmp_path):
    """A box with z up whose sides have their own colours. SyncDreamer turns it about z by minus an angle; then the
    input camera stands over +x."""
    protocol = load_protocol("syncdreamer-30")
    assert set(protocol.object_azimuths) == set(protocol.objects)
    sides = {(1, 0): (250, 0, 0), (0, 1): (0, 250, 0), (-1, 0): (0, 0, 250), (0, -1): (250, 250, 0)}
    box = trimesh.creation.box(np.ones(3))
    for direction, color in sides.items():
        box.visual.face_colors[box.face_normals @ [*direction, 0] > 0.9] = (*color, 255)
    meshes = {}
    for name in ("alarm", "sofa", "elephant", "bell", "unlisted", "shoe"):
        meshes[name] = tmp_path / f"{name}.ply"
        box.export(meshes[name])
    settings = replace(protocol, sizes=(16,)).render_settings(up="z", depth=False)
    render_meshes(meshes, tmp_path / "views", settings, 1, lambda *done: None)
    for name, seen in (("alarm", (0, -1)), ("sofa", (0, -1)), ("elephant", (-1, 0)), ("bell", (1, 0)),
                       ("unlisted", (0, -1))):
        angle = np.radians(protocol.object_azimuths.get(name, 270))
        turned = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]]) @ seen
        np.testing.assert_allclose(turned, [1, 0], atol=1e-9)  # by minus the angle
        truth = read_object(tmp_path / "views" / name)
        assert tuple(truth.rgba[0, :3, 9, 8].tolist()) == sides[seen]
        assert tuple(truth.rgba[4, :3, 9, 8].tolist()) == sides[tuple(np.array([[0, -1], [1, 0]]) @ seen)]  # azimuth 90
    with pytest.raises(InputError, match="alarm: .*give --up z"):
        render_to_folder(meshes["alarm"], tmp_path / "lying", "alarm", replace(settings, up="y"))
    left, right = read_object(tmp_path / "views" / "shoe").rgba[0, :3, 9, [5, 10]].T.tolist()  # 225: onto an edge
    assert (tuple(left), tuple(right)) == (sides[-1, 0], sides[0, -1])
    source = Folder(tmp_path / "views", replace(protocol, sizes=(16,)), meshes=[tmp_path])
    source.prepare(Files("mesh", tmp_path, load_convention("source")))
    assert source.surface(read_object(tmp_path / "views" / "elephant")) is not None  # turned as it was rendered


def test_an_orbit_that_leans_with_the_input_camera():
    convention = load_convention("Ouroboros3D")
    for name in ("ouroboros-orbit", "released"):
        base = load_protocol(name)
        own = base.at(convention)
        cameras = own.cameras("thing")
        torch.testing.assert_close(cameras.c2w[0], base.cameras("thing").c2w[0])
        elevation = elevations(cameras)[0].item()
        assert elevations(cameras)[4].item() == pytest.approx(-elevation, abs=1e-3)  # from behind
        theirs = convention.view_cameras(cameras.views([0]))
        torch.testing.assert_close(theirs.c2w[1:], cameras.c2w[1:], atol=1e-5, rtol=0)
        assert own.render_settings().record()["leans"]


@pytest.mark.parametrize("name", convention_names())
def test_a_protocol_seen_from_a_methods_own_cameras(name):
    protocol, convention = load_protocol("ouroboros-orbit"), load_convention(name)
    own = protocol.at(convention)
    if not isinstance(convention.views, dict):
        assert own is protocol
        return
    condition = own.cameras("x").views([0])
    seen, theirs = own.cameras("x"), convention.view_cameras(condition)
    apart = torch.cdist(theirs.positions, seen.positions)
    assert apart.min(1).values.max() < 1e-4  # each of its views is one of the protocol's
    assert set(own.primary_views) == set(range(1, len(seen.c2w))) and own.name.startswith("ouroboros-orbit@")


FAULTS = {
    "unknown key": ({"colour": 1}, "colour"), "view beyond": ({"primary_views": [9]}, "primary_views"),
    "background": ({"background": "grey"}, "white"), "tiny": ({"sizes": [8]}, "16 to 4096"),
    "nothing primary": ({"primary_views": []}, "primary_views"), "radius": ({"radius": "far"}, "protocol"),
    "input turned": ({"input_view": 1}, "azimuth 0"), "elevations": ({"elevation": [1, 2]}, "one a view"),
    "novel": ({"novel": [3]}, "protocol"), "turns": ({"object_azimuths": {"a": "left"}}, "=left: expected a number"),
    "turns by order": ({"object_azimuths": [1]}, "protocol"),
    "leaning many ways": ({"leans": True, "elevation": list(range(8))}, "one elevation"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_faulty_protocols_are_told_in_one_line(tmp_path, name):
    change, word = FAULTS[name]
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(json.loads((FOLDER / "ouroboros-orbit.json").read_text()) | change))
    with pytest.raises(InputError, match=word) as caught:
        load_protocol(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_unknown_names():
    for call, word in ((lambda: load_protocol("gso"), "ouroboros-orbit, released"),
                       (lambda: load_protocol("none.json"), "no such file"),
                       (lambda: load_convention("dreamer"), "SyncDreamer"),
                       (lambda: load_convention("SV3D", "mesh"), "makes images, not mesh"),
                       (lambda: load_protocol("released").at(load_convention("SV3D")), "one elevation"),
                       (lambda: load_protocol("ouroboros-orbit").size(64), "256 and 512")):
        with pytest.raises(InputError, match=word):
            call()


# --- the command line ---

@pytest.fixture
def run(capsys):
    def call(*arguments):
        with pytest.raises(SystemExit) as caught:
            main([str(argument) for argument in arguments])
        return caught.value.code, *capsys.readouterr()
    return call


@pytest.fixture
def small(tmp_path):
    """ouroboros-orbit at 32 pixels, as a file of the user's own."""
    path = tmp_path / "small-orbit.json"
    record = json.loads((FOLDER / "ouroboros-orbit.json").read_text())
    path.write_text(json.dumps(record | {"name": "small-orbit", "sizes": [32]}))
    return path


def test_data_sets_say_which_protocol_they_were_made_for(run, small, tmp_path):
    trimesh.creation.box(np.ones(3)).export(tmp_path / "box.ply")
    arguments = ("data", "render", tmp_path / "box.ply", "--out", tmp_path / "a", "--protocol", small, "--workers", 1)
    assert run(*arguments)[0] == 0
    views = read_object(tmp_path / "a" / "box")
    assert views.info["render"]["protocol"] == "small-orbit-v1-32" and views.num_orbit_views == 8
    torch.testing.assert_close(views.cameras.c2w, load_protocol(small).cameras("box").c2w)
    before = (tmp_path / "a" / "box" / "view_000.png").stat().st_mtime_ns
    assert run(*arguments)[0] == 0 and (tmp_path / "a" / "box" / "view_000.png").stat().st_mtime_ns == before
    code, _, error = run("data", "render", tmp_path / "box.ply", "--out", tmp_path / "a", "--size", 32)
    assert code == 2 and "was made otherwise" in error

    objects = ("data", "objects", "--out", tmp_path / "b", "--count", 2, "--protocol", small)
    assert run(*objects)[0] == 0 and run(*objects)[0] == 0
    views = read_object(tmp_path / "b" / "test_000001")
    assert views.rgba.shape == (12, 4, 32, 32) and views.info["render"]["protocol"] == "small-orbit-v1-32"
    torch.testing.assert_close(views.cameras.c2w, load_protocol(small).cameras("test_000001").c2w)

    code, _, error = run("evaluate", "--data", tmp_path / "a", "--method", f"images:{tmp_path / 'a'}", "--out",
                         tmp_path / "figures", "--protocol", "released", "--lpips", "off")
    assert code == 2 and error.count("\n") == 1 and "rendered for small-orbit-v1-32, not for released-v1-512" in error


@pytest.mark.parametrize(("options", "word"), [
    (("--protocol", "gso"), "released"), (("--protocol", "released", "--size", "256"), "512 pixels"),
    (("--protocol", "released", "--views", "4"), "--views"), (("--convention", "SV3D"), "needs --protocol"),
    (("--protocol", "ouroboros-orbit", "--convention", "nobody"), "SV3D"),
])
def test_bad_options_of_render(run, tmp_path, options, word):
    trimesh.creation.box(np.ones(3)).export(tmp_path / "box.ply")
    code, _, error = run("data", "render", tmp_path / "box.ply", "--out", tmp_path / "out", *options)
    assert code == 2 and word in error and error.count("\n") == 1 and not (tmp_path / "out").exists()
