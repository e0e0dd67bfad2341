"""Pictures of one object, and files that are none: name -> (how to make one, what the error says)."""

import struct
import zlib

import numpy as np
from PIL import Image


def scene(height=90, width=120, background=(0.9, 0.9, 0.85)):
    """An orange disc with a dark square in it, off centre: (H, W, 3) in [0, 1] and its mask."""
    y, x = np.mgrid[:height, :width] + 0.5
    mask = (x - 0.4 * width) ** 2 + (y - 0.55 * height) ** 2 < (0.3 * height) ** 2
    picture = np.broadcast_to(np.asarray(background, np.float32), (height, width, 3)).copy()
    picture[mask] = (0.85, 0.4, 0.1)
    picture[(abs(x - 0.4 * width) < 0.1 * height) & (abs(y - 0.55 * height) < 0.1 * height)] = (0.1, 0.2, 0.3)
    return picture, mask


def iou(a, b):
    """Of two masks."""
    return (a & b).sum() / (a | b).sum()


def rgb_image(**kwargs):
    return Image.fromarray((scene(**kwargs)[0] * 255).round().astype(np.uint8))


def rgba_image():
    image = rgb_image()
    image.putalpha(Image.fromarray(scene()[1].astype(np.uint8) * 255))
    return image


def png_header(width, height):
    """A PNG that claims any size, with no pixels to speak of."""
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
            + chunk(b"IDAT", zlib.compress(b"\0" * 64)) + chunk(b"IEND", b""))


def truncated(path):
    rgb_image().save(path, "JPEG" if path.suffix == ".jpg" else "PNG")
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def nothing_stands_out(path):
    Image.new("RGB", (60, 60), (120, 130, 140)).save(path)


def speck(path):
    image = Image.new("RGBA", (100, 100))
    image.paste((255, 0, 0, 255), (50, 50, 53, 53))
    image.save(path)


BAD = {
    "missing.png": (lambda path: None, "no such file"),
    "folder.png": (lambda path: path.mkdir(), "is a folder"),
    "empty.png": (lambda path: path.write_bytes(b""), "empty"),
    "truncated.png": (truncated, "truncated or damaged"),
    "truncated.jpg": (truncated, "truncated or damaged"),
    "header_only.png": (lambda path: path.write_bytes(png_header(64, 64)[:40]), "damaged|not a picture"),
    "text.png": (lambda path: path.write_text("hello\nworld"), "not a picture"),
    "vector.svg": (lambda path: path.write_text("<svg xmlns='http://www.w3.org/2000/svg'/>"), "not a picture"),
    "one_pixel.png": (lambda path: Image.new("RGB", (1, 1)).save(path), "too few"),
    "thin.png": (lambda path: Image.new("RGB", (500, 3)).save(path), "too few"),
    "wide.png": (lambda path: Image.new("1", (20_000, 10)).save(path), "too many"),
    "huge.png": (lambda path: path.write_bytes(png_header(20_000, 20_000)), "too large|too many"),
    "megapixels.png": (lambda path: path.write_bytes(png_header(12_000, 12_000)), "too many"),
    "transparent.png": (lambda path: Image.new("RGBA", (50, 50), (255, 0, 0, 0)).save(path), "fully transparent"),
    "speck.png": (speck, "only 3 x 3 pixels"),
    "plain.png": (nothing_stands_out, "no object stands out"),
    "infinite.tiff": (lambda path: Image.fromarray(np.full((20, 20), np.inf, np.float32)).save(path), "not finite"),
}
