"""OBJ, MTL and PLY as programs and data sets write them: nothing about colour or shape is lost in silence."""

import numpy as np
import pytest
from gltf_inputs import CHART, chart
from PIL import Image

from ouroboros_lib.cameras import orbit_cameras
from ouroboros_lib.data.mesh_files import PLAIN, MissingFile, read_parts
from ouroboros_lib.data.meshes import load_mesh, render_mesh
from ouroboros_lib.data.polygons import triangulate
from ouroboros_lib.errors import InputError

OBJ = """mtllib square.mtl
v -1 -1 0
v 1 -1 0
v 1 1 0
v -1 1 0
vt 0 0
vt 1 0
vt 1 1
vt 0 1
usemtl skin
f 1/1 2/2 3/3 4/4
"""
MTL = "newmtl skin\nKd 0.8 0.8 0.8\nmap_Kd chart.png\n"


def save_chart(path, mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    chart(mode).save(path)


def square(folder, obj=OBJ, mtl=MTL, texture="chart.png"):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "square.obj").write_bytes(obj.encode())
    (folder / "square.mtl").write_bytes(mtl.encode())
    if texture:
        save_chart(folder / texture)
    return folder / "square.obj"


def quarters(path, **settings):
    """Colours (0..255) seen in the middle of the four quarters of a square, and the notes."""
    mesh = load_mesh(path, **settings)
    rgb = render_mesh(mesh, orbit_cameras([0.0], 0.0), 64).rgba[0, :3].permute(1, 2, 0)
    return [tuple(rgb[row, column].tolist()) for row in (26, 37) for column in (26, 37)], mesh.notes


SAME = {
    "plain": (OBJ, MTL),
    "tabs": (OBJ.replace(" ", "\t"), MTL.replace(" ", "\t")),
    "Windows": ("\ufeff" + OBJ.replace("\n", "\r\n"), "\ufeff" + MTL.replace("\n", "\r\n")),
    "old Mac": (OBJ.replace("\n", "\r"), MTL),
    "indented, with comments": ("# a\n" + OBJ.replace("v ", "  v  ").replace("4/4", "4/4 # last"), "# b\n" + MTL),
    "continued lines": (OBJ.replace("2/2", "2/2 \\\n"), MTL),
    "relative numbers": (OBJ.replace("1/1 2/2 3/3 4/4", "-4/-4 -3/-3 -2/-2 -1/-1"), MTL),
    "normals": (OBJ.replace("1/1 2/2 3/3 4/4", "1/1/1 2/2/1 3/3/1 4/4/1").replace("usemtl", "vn 0 0 1\nusemtl"), MTL),
    "mixed corners": (OBJ.replace("f 1/1 2/2 3/3 4/4", "f 1/1/ 2/2/ 3/3\nf 1/1 3/3 4/4"), MTL),
    "two libraries": (OBJ.replace("mtllib", "mtllib none.mtl\nmtllib"), MTL),
    "libraries on one line": (OBJ.replace("mtllib", "mtllib none.mtl"), MTL),
    "no usemtl": (OBJ.replace("usemtl skin\n", ""), MTL),
    "material's case": (OBJ.replace("skin", "Skin"), MTL),
    "name with a number sign": (OBJ.replace("skin", "Material #25"), MTL.replace("skin", "Material #25")),
    "texture's case": (OBJ, MTL.replace("chart.png", "CHART.PNG")),
    "key's case": (OBJ, MTL.replace("map_Kd", "map_kd")),
    "author's folder": (OBJ, MTL.replace("chart.png", "C:\\work\\chart.png")),
    "options": (OBJ, MTL.replace("chart.png", "-blendu on -s 1 1 1 -o 0 0 -mm 0 1 chart.png")),
    "options behind": (OBJ, MTL.replace("chart.png", "chart.png -clamp on")),
    "accents of Windows": (OBJ, MTL.replace("chart", "ch\u00e4rt")),
    "weights": (OBJ.replace(" 0\nv", " 0 1.0\nv"), MTL),
    "white vertices": (OBJ.replace(" 0\nv", " 0 1 1 1\nv").replace("1 0\nvt 0 0", "1 0 1 1 1\nvt 0 0"), MTL),
}


@pytest.mark.parametrize("kind", SAME)
def test_the_same_square_written_otherwise(tmp_path, kind):
    path = square(tmp_path, *SAME[kind])
    (tmp_path / "none.mtl").write_text("newmtl other\nKd 1 0 0\n")
    if "accents" in kind:
        (tmp_path / "square.mtl").write_bytes(SAME[kind][1].encode("cp1252"))
        (tmp_path / "chart.png").rename(tmp_path / "cha\u0308rt.png")  # as a Mac writes it
    if kind == "no usemtl":
        (tmp_path / "none.mtl").unlink()
    assert quarters(path) == (CHART, [])


def test_scale_and_offset_of_a_texture(tmp_path):
    assert quarters(square(tmp_path, mtl=MTL.replace("chart.png", "-o 0.5 0 -s 1 1 1 chart.png")))[0] == [
        CHART[1], CHART[0], CHART[3], CHART[2]]
    part = read_parts(square(tmp_path, mtl=MTL.replace("chart.png", "-s 2 3 chart.png")))[0][0]
    assert part.uv.max(0).tolist() == [2, 3]


@pytest.mark.parametrize("where, name", [("../images/chart.png", "thing/models"),
                                         ("../textures/chart.png", "thing/geo"),
                                         ("C:\\me\\chart.png", "thing/source"), ("../../Images/chart.png", "a/b")])
def test_textures_in_folders_of_pictures_above(tmp_path, where, name):
    path = square(tmp_path / name, mtl=MTL.replace("chart.png", where), texture=None)
    (tmp_path / "thing").mkdir(exist_ok=True)
    save_chart(tmp_path / "thing" / "textures" / "chart.png" if "C:" in where else
               (path.parent / where.lower()).resolve())
    assert quarters(path) == (CHART, [])


def test_no_picture_from_elsewhere(tmp_path):
    save_chart(tmp_path / "secret.png")
    save_chart(tmp_path / "other" / "secret.png")
    save_chart(tmp_path / "a" / "b" / "images" / "secret.png")
    for name in ("../secret.png", "../other/secret.png", f"/{tmp_path}/secret.png", "../a/b/images/secret.png"):
        path = square(tmp_path / "thing", mtl=MTL.replace("chart.png", name), texture=None)
        with pytest.raises(MissingFile, match="is missing"):
            read_parts(path)


def test_colours_of_vertices_up_to_1_or_255_beside_materials(tmp_path):
    rows = ["1 0.5 0", "255 127.5 0", "65535 32767.5 0"]
    for row in rows:
        obj = OBJ.replace(" 0\nv", f" 0 {row}\nv").replace("1 0\nvt 0 0", f"1 0 {row}\nvt 0 0")
        for mtl in ("newmtl skin\nKd 0.8 0.8 0.8\n", "newmtl other\n"):
            seen, _ = quarters(square(tmp_path, obj, mtl))
            assert seen == [(255, 128, 0)] * 4


def test_faces_without_texture_coordinates_keep_their_materials_colour(tmp_path):
    for line in ("f 1 3 4", "f 1/1 3/3 4/5\n"):
        obj = OBJ.replace("usemtl", "vt nan nan\nusemtl").replace("f 1/1 2/2 3/3 4/4", "f 1/1 2/2 3/3\n" + line)
        path = square(tmp_path, obj)
        seen, notes = quarters(path)
        assert seen[0] == (204, 204, 204) and seen[3] == CHART[3]
        assert len(notes) == 1 and "1 triangles without texture coordinates" in notes[0]


def test_what_a_material_says_and_is_not_drawn_becomes_a_note(tmp_path):
    for line, word in (("d 0.5", "not opaque"), ("Tr 0.5", "not opaque"), ("Ke 1 0 0", "light"),
                       ("map_Ke a.png", "light"),
                       ("newmtl skin\nKd 1 0 0\nmap_Ka a.png", "map_Ka"), ("Kd spectral a.rfl", "spectral"),
                       ("map_Kd -t 1 1 1 chart.png", "turbulence")):
        _, notes = quarters(square(tmp_path, mtl=MTL + line + "\n"))
        assert len(notes) == 1 and word in notes[0], line
    _, notes = quarters(square(tmp_path, OBJ.replace("usemtl skin", "usemtl skim")))
    assert "names a material that its files lack (skim)" in notes[0]


def test_a_map_of_opacity_cuts_out(tmp_path):
    path = square(tmp_path, mtl=MTL + "map_d holes.png\n")
    Image.fromarray(np.uint8([[0, 255], [255, 255]]).repeat(32, 0).repeat(32, 1)).save(tmp_path / "holes.png")
    assert quarters(path) == ([(255, 255, 255), *CHART[1:]], [])


def test_missing_pictures_fail_or_are_drawn_without(tmp_path):
    path = square(tmp_path, texture=None)
    with pytest.raises(MissingFile, match="chart.png, is missing"):
        load_mesh(path)
    seen, notes = quarters(path, missing="grey")
    assert set(seen) == {(204, 204, 204)} and "chart.png, is missing: drawn without it" in notes[0]
    (tmp_path / "square.mtl").unlink()
    seen, notes = quarters(path, missing="grey")
    assert set(seen) == {(PLAIN,) * 3} and len(notes) == 2


def test_pointers_of_git_lfs_are_named(tmp_path):
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n"
    path = square(tmp_path)
    (tmp_path / "chart.png").write_bytes(pointer)
    with pytest.raises(InputError, match="chart.png cannot be read .*Git LFS pointer"):
        read_parts(path)
    for name in ("a.obj", "a.ply", "a.glb"):
        (tmp_path / name).write_bytes(pointer)
        with pytest.raises(InputError, match=f"{name}: is a Git LFS pointer, not the file: git lfs pull"):
            read_parts(tmp_path / name)


# ---- polygons -------------------------------------------------------------------------------------------------------


def area(points, triangles):
    a, b, c = points[triangles].swapaxes(0, 1)
    return np.cross(b - a, c - a)[:, 2] / 2


SHAPES = {"L": ([(3, 1), (1, 1), (1, 3), (0, 3), (0, 0), (3, 0)], 5), "dart": ([(0, 0), (2, 1), (0, 2), (0.5, 1)], 1.5),
          "square": ([(0, 0), (1, 0), (1, 1), (0, 1)], 1),
          "ring with a bridge": ([(0, 0), (3, 0), (3, 3), (0, 3), (0, 0), (1, 1), (1, 2), (2, 2), (2, 1), (1, 1)], 8),
          "comb": ([(0, 0), (9, 0)] + [(9 - i, 1 + 3 * (i % 2 == 0)) for i in range(10)], 22.5)}


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("turn", (1, -1))
def test_polygons_are_covered_once(name, turn):
    flat, size = SHAPES[name]
    points = np.array([(*point, 0.0) for point in flat])[::turn]
    areas = turn * area(points, triangulate(points[None])[0])
    assert (areas > -1e-12).all() and areas.sum() == pytest.approx(size)
    standing = points[:, [2, 0, 1]] + 5
    assert np.array_equal(triangulate(standing[None]), triangulate(points[None]))


def test_corners_on_a_line_and_what_crosses_itself_end():
    triangulate(np.array([[(0, 0, 0), (2, 2, 0), (2, 0, 0), (0, 2, 0)]], float))
    triangulate(np.zeros((3, 7, 3)))
    many = np.random.default_rng(0).random((1, 300, 3))
    assert triangulate(many).shape == (1, 298, 3)
    with pytest.raises(InputError, match="5000 corners that is not convex"):
        triangulate(np.random.default_rng(0).random((1, 5000, 3)))


# ---- PLY ------------------------------------------------------------------------------------------------------------


def ply(path, properties, rows, faces, form="ascii", face_properties="property list uchar int vertex_indices\n",
        comment=""):
    """rows: of vertices after x, y, z; faces: text, or bytes for binary ones."""
    corners = [(-1, -1, 0), (1, -1, 0), (1, 1, 0), (-1, 1, 0)]
    head = (f"ply\nformat {form} 1.0\n{comment}element vertex 4\nproperty float x\nproperty float y\nproperty float z\n"
            f"{properties}element face {len(faces)}\n{face_properties}end_header\n")
    if form == "ascii":
        text = [" ".join(map(str, (*corner, *row))) for corner, row in zip(corners, rows, strict=True)]
        path.write_text(head + "\n".join([*text, *faces]) + "\n")
    else:
        order = "<" if "little" in form else ">"
        body = b"".join(np.array(corner, order + "f4").tobytes() + np.uint8(row).tobytes()
                        for corner, row in zip(corners, rows, strict=True))
        body += b"".join(np.uint8([len(face)]).tobytes() + np.array(face, order + "i4").tobytes() for face in faces)
        path.write_bytes(head.encode() + body)
    return path


TRIANGLES = ["3 0 1 2", "3 0 2 3"]


@pytest.mark.parametrize("names", ["red green blue", "diffuse_red diffuse_green diffuse_blue", "r g b"])
@pytest.mark.parametrize("kind, top", [("uchar", 255), ("ushort", 65535), ("float", 1), ("float", 255)])
def test_colours_of_vertices_under_every_name_and_type(tmp_path, names, kind, top):
    properties = "".join(f"property {kind} {name}\n" for name in names.split())
    path = ply(tmp_path / "a.ply", properties, [(top, 0, top // 2 if top > 1 else 0.5)] * 4, TRIANGLES)
    seen, notes = quarters(path)
    assert not notes and all(abs(np.array(color) - (255, 0, 127.5)).max() < 1 for color in seen)


@pytest.mark.parametrize("form", ["binary_little_endian", "binary_big_endian"])
def test_binary_files_of_both_orders_and_mixed_polygons(tmp_path, form):
    properties = "".join(f"property uchar {name}\n" for name in ("red", "green", "blue"))
    for faces in ([[0, 1, 2], [0, 2, 3]], [[0, 1, 2, 3], [0, 1, 2]]):
        seen, _ = quarters(ply(tmp_path / "a.ply", properties, [(10, 20, 30)] * 4, faces, form))
        assert set(seen) == {(10, 20, 30)}
    data = (tmp_path / "a.ply").read_bytes()
    (tmp_path / "a.ply").write_bytes(data[:-5])
    with pytest.raises(InputError, match="cut off"):
        read_parts(tmp_path / "a.ply")


def test_textures_of_vertices_corners_and_faces(tmp_path):
    save_chart(tmp_path / "chart.png")
    Image.new("RGB", (8, 8), (1, 2, 3)).save(tmp_path / "other.png")
    comment = "comment TextureFile chart.png\n"
    uv = [(0, 0), (1, 0), (1, 1), (0, 1)]
    for pair in ("s t", "u v", "texture_u texture_v"):
        path = ply(tmp_path / "a.ply", "".join(f"property float {name}\n" for name in pair.split()), uv, TRIANGLES,
                   comment=comment)
        assert quarters(path) == (CHART, [])
    wedges = "property list uchar int vertex_indices\nproperty list uchar float texcoord\n"
    faces = ["3 0 1 2 6 0 0 1 0 1 1", "3 0 2 3 6 0 0 1 1 0 1"]
    path = ply(tmp_path / "a.ply", "", [()] * 4, faces, face_properties=wedges, comment=comment)
    assert quarters(path) == (CHART, [])
    both = [faces[0] + " 0", faces[1] + " 1"]
    seen, _ = quarters(ply(tmp_path / "a.ply", "", [()] * 4, both, face_properties=wedges + "property int texnumber\n",
                           comment=comment + "comment TextureFile other.png\n"))
    assert seen[0] == (1, 2, 3) and seen[3] == CHART[3]


def test_a_missing_texture_is_one_line(tmp_path, capfd):
    wedges = "property list uchar int vertex_indices\nproperty list uchar float texcoord\n"
    path = ply(tmp_path / "a.ply", "", [()] * 4, ["3 0 1 2 6 0 0 1 0 1 1"], face_properties=wedges,
               comment="comment TextureFile gone.png\n")
    with pytest.raises(MissingFile, match="gone.png, is missing"):
        read_parts(path)
    assert capfd.readouterr() == ("", "")


def test_strips_and_splat_files(tmp_path):
    head = ("ply\nformat ascii 1.0\nelement vertex 4\nproperty float x\nproperty float y\nproperty float z\n{}"
            "element tristrips 1\nproperty list int int vertex_indices\nend_header\n")
    (tmp_path / "strip.ply").write_text(head.format("") + "-1 -1 0\n1 -1 0\n-1 1 0\n1 1 0\n5 0 1 2 3 -1\n")
    assert read_parts(tmp_path / "strip.ply")[0][0].faces.tolist() == [[0, 1, 2], [2, 1, 3]]
    (tmp_path / "splat.ply").write_text("ply\nformat ascii 1.0\nelement vertex 1\nproperty float x\nproperty float y\n"
                                        "property float z\nproperty float f_dc_0\nend_header\n0 0 0 0\n")
    with pytest.raises(InputError, match="splat file, not a mesh"):
        read_parts(tmp_path / "splat.ply")
