"""Archives as the homes of the library's collections have them, with few objects."""

import io
import tarfile
import zipfile

import numpy as np
import trimesh
from PIL import Image

SQUARE = ("v -1 0 -1\nv 1 0 -1\nv 1 0 1\nv -1 0 1\nvt 0 0\nvt 1 0\nvt 1 1\nvt 0 1\nusemtl m\n"
          "f 1/1 2/2 3/3\nf 1/1 3/3 4/4\n")


def picture(size=64, seed=0, kind="PNG"):
    """Noise, as the bytes of a picture."""
    data = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (size, size, 3), np.uint8)).save(data, kind)
    return data.getvalue()


def obj(place, seed=0, size=64):
    """The files of a textured square, called `place` without a suffix."""
    name = place.rsplit("/", 1)[-1]
    return {f"{place}.obj": f"mtllib {name}.mtl\n{SQUARE}".encode(),
            f"{place}.mtl": f"newmtl m\nmap_Kd {name}.png\n".encode(), f"{place}.png": picture(size, seed)}


def glb(seed=0):
    """A ball of one colour as a GLB."""
    ball = trimesh.creation.icosphere(1)
    ball.visual.vertex_colors = np.tile(np.uint8([40 * seed, 90, 200, 255]), (len(ball.vertices), 1))
    return ball.export(file_type="glb")


def zipped(files):
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return data.getvalue()


def tarred(files, links=()):
    """A tar.gz; links: (name, target) pairs."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        for name, target in links:
            member = tarfile.TarInfo(name)
            member.type, member.linkname = tarfile.SYMTYPE, target
            archive.addfile(member)
    return data.getvalue()


def kaykit_zip():
    """As GitHub packs a repository: two objects, the second in two formats."""
    top = "KayKit-Furniture-Bits-1.0-main/Assets"
    return zipped({**obj(f"{top}/obj/armchair"), **obj(f"{top}/obj/bed_double_A", 1),
                   f"{top}/gltf/bed_double_A.glb": glb(), f"{top}/obj/unknown.obj": SQUARE.encode(),
                   f"{top}/fbx/armchair.fbx": b"fbx", "LICENSE.txt": b"CC0"})


def furniture_zip():
    """As Sweet Home 3D packs its libraries: a zip of .sh3f files, each with a catalogue."""
    catalogue = ("id#1=Scopia#desk_table\nname#1=Desk\nmodel#1=/scopia/desk.obj\ncreator#1=Scopia\n"
                 "name#2=bar_table\nmodel#2=/scopia/bar%20table.obj\nid#3=away\nmodel#3=/scopia/../../../none.obj\n")
    library = {"PluginFurnitureCatalog.properties": catalogue.encode("latin-1"), **obj("scopia/desk"),
               **obj("scopia/bar table", 1)}
    return zipped({"3DModels/Scopia.sh3f": zipped(library), "3DModels/README.TXT": b""})
