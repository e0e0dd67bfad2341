"""The photo path: every kind of file, matting, cropping."""

import sys
import types

import numpy as np
import PIL
import pytest
import torch
from pictures import BAD, iou, rgb_image, rgba_image, scene
from PIL import Image, ImageCms, features

from ouroboros_lib.cli import generate
from ouroboros_lib.data import mattes
from ouroboros_lib.data import photo as photo_module
from ouroboros_lib.data.photo import OBJECT_SHARE, load_photo
from ouroboros_lib.errors import InputError

SIZE = 64


@pytest.fixture(autouse=True)
def no_onnxruntime(monkeypatch):
    """The border's guess, which is exact on these pictures and quick."""
    mattes.u2netp_session.cache_clear()
    monkeypatch.setitem(sys.modules, "onnxruntime", None)


def transparent_palette():
    image = rgba_image().quantize(16)  # a palette with an alpha of its own: PNG keeps it as tRNS
    assert image.mode == "P"
    return image


def grey16():
    grey = scene()[0].mean(-1)
    return Image.frombytes("I;16", (grey.shape[1], grey.shape[0]), (grey * 65535).astype("<u2").tobytes())


GOOD = {
    "rgb.png": rgb_image, "rgb.jpg": rgb_image, "rgb.webp": rgb_image, "rgb.bmp": rgb_image,
    "rgba.png": rgba_image, "rgba.webp": rgba_image, "palette.png": transparent_palette,
    "palette.gif": lambda: rgb_image().quantize(16), "grey.png": lambda: rgb_image().convert("L"),
    "grey_alpha.png": lambda: rgba_image().convert("LA"), "deep.png": grey16, "deep.tiff": grey16,
    "int32.tiff": lambda: Image.fromarray((scene()[0].mean(-1) * 65535).astype(np.int32)),
    "float.tiff": lambda: Image.fromarray(scene()[0].mean(-1).astype(np.float32)),
    "cmyk.jpg": lambda: rgb_image().convert("CMYK"), "cmyk.tiff": lambda: rgb_image().convert("CMYK"),
    "ycbcr.tiff": lambda: rgb_image().convert("YCbCr"), "bilevel.png": lambda: rgb_image().convert("L").point(
        lambda v: 255 * (v > 180)).convert("1"),
}
if int(PIL.__version__.split(".")[0]) < 13:  # older ones cannot read the YCbCr TIFF that they write
    del GOOD["ycbcr.tiff"]


@pytest.mark.parametrize("name", GOOD)
def test_every_format_and_mode_gives_the_same_object(tmp_path, name):
    path = tmp_path / name
    GOOD[name]().save(path)
    photo = load_photo(path, SIZE)
    assert photo.image.shape == (3, SIZE, SIZE) and photo.alpha.shape == (1, SIZE, SIZE)
    assert photo.image.min() >= 0 and photo.image.max() <= 1 and photo.original_size == (120, 90)
    assert photo.matte == ("alpha" if name.startswith(("rgba", "palette.png", "grey_alpha")) else "border")
    assert bool(photo.notes) == (photo.matte == "border")
    y, x = np.mgrid[:SIZE, :SIZE] + 0.5
    disc = (x - SIZE / 2) ** 2 + (y - SIZE / 2) ** 2 < (OBJECT_SHARE * SIZE / 2) ** 2
    assert iou(photo.alpha[0].numpy() > 0.5, disc) > 0.9
    corners = photo.image[:, [0, 0, -1, -1], [0, -1, 0, -1]]
    assert torch.equal(corners, torch.ones(3, 4))
    if "rgb" in name or "cmyk" in name or "palette" in name or "ycbcr" in name:
        assert torch.allclose(photo.image[:, SIZE // 2, 12], torch.tensor([0.85, 0.4, 0.1]), atol=0.06)
        assert torch.allclose(photo.image[:, SIZE // 2, SIZE // 2], torch.tensor([0.1, 0.2, 0.3]), atol=0.06)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation(tmp_path, orientation):
    upright = rgba_image()
    undo = {2: Image.FLIP_LEFT_RIGHT, 3: Image.ROTATE_180, 4: Image.FLIP_TOP_BOTTOM, 5: Image.TRANSPOSE,
            6: Image.ROTATE_90, 7: Image.TRANSVERSE, 8: Image.ROTATE_270}.get(orientation)
    stored = upright if undo is None else upright.transpose(undo)
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "photo.png", exif=exif)
    upright.save(tmp_path / "upright.png")
    photo, reference = (load_photo(tmp_path / name, SIZE) for name in ("photo.png", "upright.png"))
    assert photo.original_size == (120, 90)
    assert torch.equal(photo.image, reference.image)


def test_object_fills_the_training_share_and_is_centred(tmp_path):
    for box in ((10, 20, 110, 50), (90, 5, 110, 85)):
        alpha = Image.new("L", (120, 90))
        alpha.paste(255, box)
        image = Image.new("RGB", (120, 90), (200, 30, 30))
        image.putalpha(alpha)
        image.save(tmp_path / "box.png")
        rows, columns = (torch.nonzero(load_photo(tmp_path / "box.png", 128).alpha[0].amax(axis) > 0.5)[:, 0]
                         for axis in (1, 0))
        spans = [int(side[-1] - side[0]) + 1 for side in (rows, columns)]
        assert 1 <= np.hypot(*spans) / (OBJECT_SHARE * 128) <= 1.08  # corners are the outermost hundredth
        for side in (rows, columns):
            assert abs(float(side[0] + side[-1] + 1) / 2 - 64) <= 1


def test_transparent_pixels_do_not_bleed_into_the_object(tmp_path):
    rgba = np.zeros((80, 80, 4), np.uint8)
    rgba[..., 1] = 255  # green where nobody sees it
    rgba[20:60, 20:60] = (255, 0, 0, 255)
    Image.fromarray(rgba).save(tmp_path / "red.png")
    image = load_photo(tmp_path / "red.png", SIZE).image
    assert (image[1] - image[2]).abs().max() < 1e-5  # red on white: green and blue are equal everywhere


def test_keep_takes_the_whole_picture(tmp_path):
    rgb_image().save(tmp_path / "photo.png")
    photo = load_photo(tmp_path / "photo.png", SIZE, background="keep")
    assert photo.matte == "keep" and photo.alpha[0, SIZE // 2].min() > 0.99 and not photo.notes
    assert abs(float(photo.alpha.mean()) - 0.75) < 0.02  # 120 x 90 in a square
    assert torch.allclose(photo.image[:, SIZE // 2, 1], torch.tensor([0.9, 0.9, 0.85]), atol=0.02)


def test_large_pictures_are_reduced_without_aliasing(tmp_path):
    stripes = (np.indices((2400, 2400)).sum(0) % 2 * 255).astype(np.uint8)
    Image.fromarray(stripes).save(tmp_path / "checker.png")
    image = load_photo(tmp_path / "checker.png", SIZE, background="keep").image
    assert (image[:, 2:-2, 2:-2] - 0.5).abs().max() < 0.02


def test_colour_profile_is_converted(tmp_path):
    picture = Image.new("RGB", (40, 40), (200, 120, 40))
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    red, blue = b"rXYZ", b"bXYZ"  # which colours the primaries are
    swapped = srgb.replace(red, b"????").replace(blue, red).replace(b"????", blue)
    for profile, seen in ((srgb, (200, 120, 40)), (swapped, (40, 120, 200))):
        picture.save(tmp_path / "profiled.png", icc_profile=profile)
        photo = load_photo(tmp_path / "profiled.png", SIZE, background="keep")
        expected = torch.tensor(seen)[:, None, None].expand_as(photo.image) / 255
        assert not photo.notes and torch.allclose(photo.image, expected, atol=0.01)
    picture.save(tmp_path / "broken.png", icc_profile=b"not a profile")
    photo = load_photo(tmp_path / "broken.png", SIZE, background="keep")
    assert any("colour profile" in note for note in photo.notes)


def test_first_frame_of_an_animation_with_a_note(tmp_path):
    frames = [rgb_image(), Image.new("RGB", (120, 90), "blue")]
    frames[0].save(tmp_path / "moving.webp", save_all=True, append_images=frames[1:], lossless=True)
    photo = load_photo(tmp_path / "moving.webp", SIZE)
    assert any("several frames" in note for note in photo.notes)
    assert torch.allclose(photo.image[:, SIZE // 2, 12], torch.tensor([0.85, 0.4, 0.1]), atol=0.06)


# ---- what cannot be used ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", BAD)
def test_bad_files_give_one_line_that_names_the_file(tmp_path, name):
    make, message = BAD[name]
    path = tmp_path / name
    make(path)
    with pytest.raises(InputError, match=message) as caught:
        load_photo(path, SIZE)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_alpha_is_insisted_on(tmp_path):
    rgb_image().save(tmp_path / "photo.png")
    with pytest.raises(InputError, match="no transparent background"):
        load_photo(tmp_path / "photo.png", SIZE, background="alpha")


def test_specks_beside_the_object_do_not_move_it(tmp_path):
    image = rgba_image()
    image.save(tmp_path / "clean.png")
    image.putpixel((118, 3), (255, 255, 255, 255))
    image.save(tmp_path / "speck.png")
    clean, photo = (load_photo(tmp_path / name, SIZE) for name in ("clean.png", "speck.png"))
    assert torch.equal(photo.image, clean.image) and not clean.notes
    assert len(photo.notes) == 1 and "specks beside the object were left out (1 of them)" in photo.notes[0]


def framed(alpha):
    """The silhouette that the model sees of a picture with this alpha (H, W), and the notes."""
    rgba = np.concatenate([np.full((*alpha.shape, 3), 0.5, np.float32), alpha[..., None]], -1)
    photo = photo_module.cut_out_pixels("photo", rgba, alpha.shape[::-1], []).frame(SIZE)
    return photo.alpha[0].numpy() > 0.5, photo.notes


def soft_disc():
    y, x = np.mgrid[:200, :200]
    return (31 - np.hypot(x - 80, y - 120)).clip(0, 4).astype(np.float32) / 4


@pytest.mark.parametrize("veil, place", [(0.12, np.s_[:]), (0.2, np.s_[:]), (0.4, np.s_[:]), (0.2, np.s_[:100]),
                                         (0.2, np.s_[:, 110:])])  # a denser part may be glass
def test_haze_around_the_object_does_not_move_it(veil, place):
    clean, hazy = soft_disc(), soft_disc()
    hazy[place] = np.maximum(hazy[place], veil)
    expected, said = framed(clean)
    seen, notes = framed(hazy)
    assert iou(seen, expected) > 0.97 and not said
    assert len(notes) == 1 and "haze around the object was left out" in notes[0]


def test_parts_are_weighed_by_area_and_alpha():
    expected, _ = framed(soft_disc())
    logo = soft_disc()
    logo[4:14, 180:190] = 1  # 4 % of the disc's area
    seen, notes = framed(logo)
    assert np.array_equal(seen, expected) and "specks beside the object were left out (1 of them)" in notes[0]
    pale = soft_disc()
    pale[:40, 160:190] = 0.12  # 40 % of its area, but hardly there
    assert np.array_equal(framed(pale)[0], expected)
    pair = soft_disc()
    pair[20:60, 150:190] = 1
    assert framed(pair)[1] == [] and not np.array_equal(framed(pair)[0], expected)


@pytest.mark.parametrize("start, kind", [(b"\0\0\0\x1cftypheic\0\0\0\0mif1heic", "HEIC"), (b"\xff\x0a....", "JPEG XL")])
def test_formats_that_pil_cannot_read_are_named(tmp_path, start, kind):
    (tmp_path / "photo.jpg").write_bytes(start + bytes(100))
    with pytest.raises(InputError, match=rf"photo.jpg: not a .*, it is {kind}: convert it to PNG or JPEG first"):
        load_photo(tmp_path / "photo.jpg", SIZE)


def test_heic_is_read_where_pillow_heif_is(tmp_path, monkeypatch):
    def register():
        Image.register_open("HEIF", lambda file, name: rgba_image(), lambda prefix: prefix[4:12] == b"ftypheic")

    (tmp_path / "photo.heic").write_bytes(b"\0\0\0\x1cftypheic\0\0\0\0mif1heic" + bytes(100))
    monkeypatch.setattr(Image, "ID", [*Image.ID])
    monkeypatch.setattr(Image, "OPEN", {**Image.OPEN})
    monkeypatch.setitem(sys.modules, "pillow_heif", types.SimpleNamespace(register_heif_opener=register))
    assert load_photo(tmp_path / "photo.heic", SIZE).matte == "alpha"


def test_a_pointer_of_git_lfs_is_named(tmp_path):
    (tmp_path / "photo.png").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n")
    with pytest.raises(InputError, match="it is a Git LFS pointer, not the file: git lfs pull fetches it"):
        load_photo(tmp_path / "photo.png", SIZE)


@pytest.mark.skipif(not features.check("avif"), reason="PIL reads AVIF from 11.3 on")
def test_avif_by_another_name(tmp_path):
    rgb_image().save(tmp_path / "photo.jpg", "AVIF")
    assert load_photo(tmp_path / "photo.jpg", SIZE).original_size == (120, 90)


def test_the_photograph_that_ships():
    from pathlib import Path

    path = Path(photo_module.__file__).parent / "samples" / "coffee.webp"
    photo = load_photo(path, 128, background="alpha")
    assert path.stat().st_size <= 100_000 and not photo.notes
    assert 0.3 < float(photo.alpha.mean()) < 0.7


def test_the_command_line_offers_what_photos_take():
    assert generate.BACKGROUNDS == photo_module.BACKGROUNDS  # stated twice: `--help` imports no torch
