"""Every release's own files, written here as it writes them, from the truth: measured by one command, or refused."""

import json
import shutil

import numpy as np
import pytest
import torch
import trimesh
from evaluation_inputs import (
    LEANING,
    SEEN_AS,
    VIEWS,
    Z_UP_X_FRONT,
    asymmetric_mesh,
    asymmetric_splat,
    moved,
    release_cameras,
    rows_of,
    splat_views,
)
from PIL import Image

from ouroboros_lib.cli.main import main
from ouroboros_lib.data.folders import write_object
from ouroboros_lib.evaluation import conventions, native
from ouroboros_lib.evaluation.conventions import load_convention
from ouroboros_lib.evaluation.protocols import load_protocol

TILE = 48
GRIDS = {"SyncDreamer": (1, 16, 0), "InstantMesh": (3, 2, 0), "Ouroboros3D": (2, 4, 2)}
AXES = {"InstantMesh": Z_UP_X_FRONT * (4 * np.tan(np.radians(15)) / SEEN_AS),
        "TripoSR": Z_UP_X_FRONT * (1.9 * np.tan(np.radians(20)) / SEEN_AS),
        "SyncDreamer": Z_UP_X_FRONT * (1.5 * 16 / 35 / SEEN_AS)}


@pytest.fixture(scope="module", autouse=True)
def small_views(tmp_path_factory):
    """The conventions' own files, but for their views' sizes."""
    folder = tmp_path_factory.mktemp("conventions")
    for path in conventions.FOLDER.glob("*.json"):
        record = json.loads(path.read_text())
        (folder / path.name).write_text(json.dumps(record | {"size": record["size"] and TILE}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(conventions, "FOLDER", folder)
        yield


@pytest.fixture(scope="module")
def orbit(tmp_path_factory, protocol):
    path = tmp_path_factory.mktemp("protocols") / "small.json"
    path.write_text(json.dumps(protocol.record() | {"objects": "all"}))
    return path


def splats():
    splat = asymmetric_splat()
    return {"thing": splat, "other": moved(splat, np.array([[0, 0, 1.0], [0, 1, 0], [-1, 0, 0]]))}


@pytest.fixture(scope="module")
def truth(tmp_path_factory, orbit):
    """name of a method -> folder of two objects, seen from its cameras."""
    made = {}

    def render(name):
        if name not in made:
            own = load_protocol(orbit).at(load_convention(name))
            made[name] = tmp_path_factory.mktemp("truth")
            for stem, splat in splats().items():
                write_object(made[name] / stem, splat_views(splat, own.cameras(stem), TILE, stem, own.label(TILE)))
        return made[name]
    return render


@pytest.fixture
def run(orbit, tmp_path, capsys):
    """Exit code, stderr, and rows of one command."""
    def call(data, method, convention, *options):
        out = tmp_path / "figures"
        shutil.rmtree(f"{out}.parts", ignore_errors=True)
        with pytest.raises(SystemExit) as caught:
            main(["evaluate", "--data", str(data), "--protocol", str(orbit), "--method", method, "--convention",
                  convention, "--out", str(out), "--lpips", "off", *map(str, options)])
        return caught.value.code, capsys.readouterr().err, rows_of(out) if caught.value.code != 2 else []
    return call


def pictures(name, splat):
    """(V, T, T, 3) uint8, as the release orders them."""
    return (255 * splat_views(splat, release_cameras(name), TILE).images).byte().permute(0, 2, 3, 1).numpy()


def grid(frames, rows, columns, padding):
    step = TILE + padding
    sheet = np.zeros((rows * step + padding, columns * step + padding, 3), np.uint8)
    for k, frame in enumerate(frames):
        y, x = padding + step * (k // columns), padding + step * (k % columns)
        sheet[y:y + TILE, x:x + TILE] = frame
    return Image.fromarray(sheet)


def video(path, frames):
    import imageio_ffmpeg

    writer = imageio_ffmpeg.write_frames(str(path), frames.shape[1:3][::-1], codec="libx264rgb", pix_fmt_out="rgb24",
                                         quality=None, macro_block_size=1, output_params=["-crf", "0"],
                                         ffmpeg_log_level="error")
    writer.send(None)
    for frame in frames:
        writer.send(np.ascontiguousarray(frame))
    writer.close()


def release(folder, name, change=lambda frames: frames, objects=None):
    """What the method's script leaves in its folder; change: of the pictures of an object, first."""
    for number, (stem, splat) in enumerate((objects or dict(sorted(splats().items()))).items()):
        frames = change(pictures(name, splat))
        if name in GRIDS:
            path = folder / {"SyncDreamer": f"{stem}/0.png", "InstantMesh": f"instant-mesh-large/images/{stem}.png",
                             "Ouroboros3D": f"{stem}.png"}[name]
            path.parent.mkdir(parents=True, exist_ok=True)
            grid(frames, *GRIDS[name]).save(path)
        elif name == "SV3D":
            folder.mkdir(exist_ok=True)
            video(folder / f"{number:06d}.mp4", frames)
        else:
            for suffix in ("", "_gs"):  # of which the other method's are white
                path = folder / f"{stem}.png_01_00_a chair, 4_2_{number:02d}{suffix}"
                path.mkdir(parents=True)
                for k, frame in enumerate(frames):
                    shown = frame if bool(suffix) == (name == "VideoMV (GS)") else np.full_like(frame, 255)
                    Image.fromarray(shown).save(path / f"{k:05d}.png")
                path.with_suffix(".mp4").write_bytes(b"")
    return f"images:{folder}"


@pytest.mark.parametrize("name", VIEWS)
def test_pictures_as_the_release_writes_them(run, truth, tmp_path, name):
    code, error, rows = run(truth(name), release(tmp_path / "out", name), name)
    assert code == 0 and not any(row["warning"] for row in rows) and "check" not in error
    assert {row["object"] for row in rows} == {"thing", "other"} and len(rows) >= 2 * len(VIEWS[name][0])
    assert min(float(row["psnr"]) for row in rows) > 45


WRONG = {"mirrored": lambda frames: frames[:, :, ::-1],
         "turning the other way round": lambda frames: frames[(-np.arange(len(frames)) - 2) % len(frames)],
         "shifted by one view": lambda frames: np.roll(frames, 1, 0),
         "mirrored and turning the other way round": lambda frames: frames[::-1, :, ::-1]}


@pytest.mark.parametrize(("name", "wrong"), [("SyncDreamer", "mirrored"), ("SV3D", "turning the other way round"), (
    "VideoMV", "shifted by one view"), ("InstantMesh", "mirrored and turning the other way round")])
def test_a_wrong_reading_is_said(run, truth, tmp_path, name, wrong):
    code, error, rows = run(truth(name), release(tmp_path / "out", name, WRONG[wrong]), name)
    assert code == 0 and f"images-{name}: 2 of 2 objects fit better {wrong}: check the convention\n" in error
    assert {row["warning"] for row in rows} == {wrong}
    assert json.loads((tmp_path / "figures.json").read_text())["summary"]["warnings"]


def test_pictures_turned_the_other_way_among_uneven_azimuths(run, truth, tmp_path):
    back = lambda frames: frames[-np.arange(8) % 8]  # noqa: E731
    rows = run(truth("Ouroboros3D"), release(tmp_path / "out", "Ouroboros3D", back), "Ouroboros3D")[2]
    assert {row["warning"] for row in rows} == {"turning the other way round"}


def test_a_grid_without_its_padding(run, truth, tmp_path):
    method = release(tmp_path / "out", "Ouroboros3D")
    for stem, splat in splats().items():
        path = tmp_path / "out" / f"{stem}.png"
        grid(pictures("Ouroboros3D", splat), 2, 4, 0).save(path)
    code, error, _ = run(truth("Ouroboros3D"), method, "Ouroboros3D")
    assert code == 2 and error.count("\n") == 1 and "other.png: 192 x 96 pixels, expected 202 x 102: 2 x 4" in error
    for stem in splats():  # stretched to the size with padding
        path = tmp_path / "out" / f"{stem}.png"
        Image.open(path).resize((202, 102), Image.Resampling.BICUBIC).save(path)
    rows = run(truth("Ouroboros3D"), method, "Ouroboros3D")[2]
    assert {row["warning"] for row in rows} == {"without padding"}


def test_samples_and_strips_that_were_cut(run, truth, tmp_path):
    out = tmp_path / "out"
    method = release(out, "SyncDreamer")
    for stem in splats():
        for number in (1, 2, 3):
            shutil.move(out / stem / f"{number - 1}.png", out / stem / f"{number}.png")
            Image.new("RGB", (16 * TILE, TILE), "white").save(out / stem / f"{number - 1}.png")
    assert min(float(row["psnr"]) for row in run(truth("SyncDreamer"), method, "SyncDreamer", "--sample", 3)[2]) > 45
    assert json.loads((tmp_path / "figures.json").read_text())["settings"]["sample"] == 3
    assert max(float(row["psnr"]) for row in run(truth("SyncDreamer"), method, "SyncDreamer")[2]) < 25
    code, error, _ = run(truth("SyncDreamer"), method, "SyncDreamer", "--sample", 4)
    assert code == 2 and error.count("\n") == 1 and "no other/4.png in" in error
    for stem, splat in splats().items():
        shutil.rmtree(out / stem)
        (out / stem).mkdir()
        for k, frame in enumerate(pictures("SyncDreamer", splat)):
            Image.fromarray(frame).save(out / stem / f"{k}.png")
    assert min(float(row["psnr"]) for row in run(truth("SyncDreamer"), method, "SyncDreamer")[2]) > 45


def test_objects_are_in_the_order_in_which_a_script_sorts_its_inputs(tmp_path):
    for number in range(2):
        (tmp_path / f"00000{number}.mp4").touch()
    found = native.whose(tmp_path, {"numbered": "*"}, ["mug", "mug-red"])  # mug-red.png comes before mug.png
    assert {name: path.name for name, path in found.items()} == {"mug-red": "000000.mp4", "mug": "000001.mp4"}


def test_numbered_files_belong_to_objects_by_order_or_list(run, truth, tmp_path):
    method, data, listed = release(tmp_path / "out", "SV3D"), truth("SV3D"), tmp_path / "names.csv"
    assert "000000.mp4 = other, 000001.mp4 = thing\n" in run(data, method, "SV3D")[1]
    shutil.move(tmp_path / "out" / "000001.mp4", tmp_path / "out" / "000010.mp4")
    shutil.move(tmp_path / "out" / "000000.mp4", tmp_path / "out" / "000020.mp4")
    assert max(float(row["psnr"]) for row in run(data, method, "SV3D")[2] if row["view"] != "0") < 45
    for text in ("file,object\n000020.mp4,other\n10,thing\n", "000010.mp4,thing\n000020, other\n10.mp4,unknown\n"):
        listed.write_text(text)
        code, error, rows = run(data, method, "SV3D", "--names", listed)
        assert code == 0 and min(float(row["psnr"]) for row in rows) > 45 and "000020.mp4 = other" in error
    record = json.loads((tmp_path / "figures.json").read_text())
    assert record["settings"]["numbered files"] == {"thing": "000010.mp4", "other": "000020.mp4"}
    for text, word in (("10,thing\n", "no file for other"), ("10,thing\n30,other\n", "30: there is no such file"),
                       ("thing\n", "expected file,object"), ("10,thing\n20,thing\n", "thing: has two files")):
        listed.write_text(text)
        complains(run(data, method, "SV3D", "--names", listed), word)
    complains(run(data, method, "SV3D", "--names", tmp_path / "none.csv"), "none.csv: no such file")
    shutil.copy(tmp_path / "out" / "000010.mp4", tmp_path / "out" / "000030.mp4")
    complains(run(data, method, "SV3D"), "3 numbered files for 2 objects")


def complains(answer, word):
    code, error, _ = answer
    assert code == 2 and error.splitlines()[-1].startswith("error: ") and word in error.splitlines()[-1]


@pytest.mark.parametrize(("spoil", "word"), [
    (lambda data: data[:len(data) // 2], ": cannot be read as a video"), (lambda data: b"", ": cannot be read"),
    (lambda data: data[:9000] + b"\xff" * 4000 + data[13000:], ", expected 21")], ids=["cut", "empty", "damaged"])
def test_videos_that_are_damaged(run, truth, tmp_path, spoil, word):
    method = release(tmp_path / "out", "SV3D")
    path = tmp_path / "out" / "000000.mp4"
    path.write_bytes(spoil(path.read_bytes()))
    code, error, rows = run(truth("SV3D"), method, "SV3D")
    assert code == 1 and {row["object"] for row in rows} == {"thing"}
    assert "skipped: other: " in error and f"{path}{word}" in error


def test_videos_of_another_length_or_size(run, truth, tmp_path):
    method = release(tmp_path / "out", "SV3D", lambda frames: frames[:20])
    complains(run(truth("SV3D"), method, "SV3D"), "20 pictures in")
    for number in (0, 1):
        video(tmp_path / "out" / f"{number:06d}.mp4", np.zeros((21, 32, 48, 3), np.uint8))
    complains(run(truth("SV3D"), method, "SV3D"), "frames of 48 x 32 pixels, expected 48 x 48")


def test_two_folders_of_one_object_are_refused(run, truth, tmp_path):
    method = release(tmp_path / "out", "VideoMV")
    shutil.copytree(tmp_path / "out" / "thing.png_01_00_a chair, 4_2_01", tmp_path / "out" / "thing.png_01_00_cup_00")
    code, error, _ = run(truth("VideoMV"), method, "VideoMV")
    assert code == 1 and "may be its output; keep one" in error


# ---- meshes ---------------------------------------------------------------------------------------------------------


def write_obj(path, mesh, axes, material="", flip=(1, 1, 1), colors=True):
    """As releases do: vertex colours, or with texture coordinates that point into a palette, which it returns."""
    palette, index = np.unique(np.asarray(mesh.visual.vertex_colors)[:, :3], axis=0, return_inverse=True)
    lines = [f"mtllib {material}.mtl"] * bool(material)
    vertices = np.asarray(mesh.vertices) @ axes.T * flip
    for vertex, color in zip(vertices, palette[index] / 255, strict=True):
        lines.append("v " + " ".join(f"{x:.6f}" for x in (*vertex, *(color if colors else ()))))
    if not colors:
        lines += [f"vt {(i + 0.5) / len(palette)} 0.5" for i in index]
    lines += [f"usemtl {material}"] * bool(material)
    for face in np.asarray(mesh.faces)[:, ::int(np.prod(flip))] + 1:
        lines.append("f " + " ".join(str(i) if colors else f"{i}/{i}" for i in face))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")
    return Image.fromarray(palette[None].astype(np.uint8))


@pytest.fixture
def meshes():
    other = asymmetric_mesh()
    other.apply_scale([-1, 1, 1])
    return {"other": other, "thing": asymmetric_mesh()}


def test_instantmeshs_meshes(run, mesh_data, meshes, tmp_path):
    data, method = mesh_data / "views", f"mesh:{tmp_path / 'out'}"
    path = {stem: tmp_path / "out" / "large" / "meshes" / f"{stem}.obj" for stem in meshes}
    for flip, right in (((1, 1, -1), "yes"), ((1, 1, 1), "no")):
        for stem, mesh in meshes.items():
            write_obj(path[stem], mesh, AXES["InstantMesh"], flip=flip)
        complains(run(data, method, "InstantMesh"), f"{path['other']}: without a material")
        code, error, rows = run(data, method, "InstantMesh", "--mirror", right)
        assert code == 0 and min(float(row["psnr"]) for row in rows) > 40 and not any(row["warning"] for row in rows)
        wrong = {"yes": "no", "no": "yes"}[right]
        code, error, rows = run(data, method, "InstantMesh", "--mirror", wrong)
        assert "mesh-InstantMesh: 2 of 2 objects fit better mirrored" in error and rows[0]["warning"] == "mirrored"
    for stem, mesh in meshes.items():  # --export_texmap
        write_obj(path[stem], mesh, AXES["InstantMesh"], stem, colors=False).save(path[stem].with_suffix(".png"))
        path[stem].with_suffix(".mtl").write_text(f"newmtl {stem}\nmap_Kd {stem}.png\n")
    for options in ((), ("--mirror", "no")):
        code, _, rows = run(data, method, "InstantMesh", *options)
        assert code == 0 and min(float(row["psnr"]) for row in rows) > 40
    complains(run(data, method, "InstantMesh", "--mirror", "yes"), "is never mirrored")


@pytest.mark.parametrize("kind", ["obj", "glb", "baked"])
def test_triposrs_numbered_meshes(run, mesh_data, meshes, tmp_path, kind):
    for number, mesh in enumerate(meshes.values()):
        path = tmp_path / "out" / str(number) / "mesh.obj"
        palette = write_obj(path, mesh, AXES["TripoSR"], colors=kind != "baked")
        Image.new("RGB", (8, 8)).save(path.with_name("input.png"))
        if kind == "glb":
            trimesh.load(path, process=False).export(path.with_suffix(".glb"))
            path.unlink()
        elif kind == "baked":
            palette.save(path.with_name("texture.png"))
    code, error, rows = run(mesh_data / "views", f"mesh:{tmp_path / 'out'}", "TripoSR")
    assert code == 0 and f"0/mesh.{'glb' if kind == 'glb' else 'obj'} = other" in error and "note" not in error
    assert min(float(row["psnr"]) for row in rows) > 40 and not any(row["warning"] for row in rows)


@pytest.mark.parametrize("place", ["{}.ply", "{}.obj", "{}/mesh.ply"])
def test_syncdreamers_meshes(run, mesh_data, meshes, tmp_path, place):
    for stem, mesh in meshes.items():
        mesh.vertices = mesh.vertices @ AXES["SyncDreamer"].T
        path = tmp_path / "out" / place.format(stem)
        path.parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "out" / stem).mkdir(exist_ok=True)
        Image.new("RGB", (16 * TILE, TILE)).save(tmp_path / "out" / stem / "0.png")
        mesh.export(path)
    code, _, rows = run(mesh_data / "views", f"mesh:{tmp_path / 'out'}", "SyncDreamer")
    assert code == 0 and min(float(row["psnr"]) for row in rows) > 40


def test_mirrored_splats_are_told(run, splat_data, tmp_path):
    """LGM's folder, with the turntable beside."""
    (tmp_path / "out").mkdir()
    lean = LEANING * (1.5 * np.tan(np.radians(49.1 / 2)) / SEEN_AS)
    splat = moved(asymmetric_splat(), lean)
    (tmp_path / "out" / "thing.mp4").write_bytes(b"")
    splat.save_ply(tmp_path / "out" / "thing.ply")
    code, error, rows = run(splat_data, f"splat:{tmp_path / 'out'}", "LGM")
    assert code == 0 and min(float(row["psnr"]) for row in rows) > 45 and "check" not in error
    mirrored = asymmetric_splat()
    mirrored.means *= torch.tensor([-1, 1, 1])
    mirrored.quaternions *= torch.tensor([1, 1, -1, -1])
    moved(mirrored, lean).save_ply(tmp_path / "out" / "thing.ply")
    assert "1 of 1 objects fit better mirrored" in run(splat_data, f"splat:{tmp_path / 'out'}", "LGM")[1]


@pytest.mark.parametrize(("method", "convention", "options"), [
    ("images", "SV3D", ("--sample", 1)), ("images", "VideoMV", ("--names", "x.csv")),
    ("mesh", "TripoSR", ("--mirror", "no")), ("images", "InstantMesh", ("--mirror", "yes"))])
def test_options_of_other_methods_are_refused(run, truth, tmp_path, method, convention, options):
    (tmp_path / "file").write_text("")
    complains(run(truth("SV3D"), f"{method}:{tmp_path}", convention, *options), f"{options[0]}: is not for the")
