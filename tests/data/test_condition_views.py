"""What the pipeline may be given: pictures of any kind and size, and what is refused in one line."""

import logging

import numpy as np
import pytest
import torch
from pictures import rgb_image, rgba_image, scene
from PIL import Image

from ouroboros_lib.data.condition_views import as_output_type, condition_views
from ouroboros_lib.data.photo import load_photo
from ouroboros_lib.errors import InputError

SIZE = 64


def framed(size=SIZE):
    """(3, size, size) floats: an orange disc on white."""
    return torch.from_numpy(scene(size, size, (1, 1, 1))[0]).movedim(-1, 0).float()


def test_ready_tensors_are_taken_bit_for_bit(caplog):
    batch = torch.rand(2, 3, SIZE, SIZE)
    assert condition_views(batch, SIZE) is batch
    assert torch.equal(condition_views(batch[0], SIZE), batch[:1])
    assert torch.equal(condition_views([batch[1], batch[:1]], SIZE), batch.flip(0))
    assert torch.equal(condition_views((batch * 255).byte(), SIZE), (batch * 255).byte() / 255)
    assert condition_views(batch.bfloat16(), SIZE).dtype == torch.float32
    assert torch.equal(condition_views(framed().movedim(0, -1).numpy(), SIZE), framed()[None])
    assert not caplog.messages


def test_other_pictures_are_cut_out_and_framed_and_the_log_says_so(tmp_path, caplog):
    """Square or not, with alpha or without, alone or in a list: what load_photo gives."""
    rgba, rgb = rgba_image(), rgb_image()
    rgba.save(tmp_path / "cup.png")
    rgb.save(tmp_path / "cup.jpg", quality=95)
    expected = load_photo(tmp_path / "cup.png", SIZE).image
    array = np.asarray(rgba)
    tensor = torch.from_numpy(array.copy()).movedim(-1, 0)
    for picture in (tmp_path / "cup.png", str(tmp_path / "cup.png"), rgba, array, tensor, array / 255, tensor / 255,
                    array.astype(np.uint16) * 257, array[::-1][::-1]):
        assert torch.equal(condition_views(picture, SIZE), expected[None]), type(picture)
    views = condition_views([tmp_path / "cup.jpg", rgba], SIZE)
    assert (views[0] - expected).abs().mean() < 0.05 and torch.equal(views[1], expected)
    assert len(caplog.messages) == 10 and caplog.records[-1].levelno == logging.WARNING
    assert caplog.messages[-1] == (f"cut out and framed to 64 x 64 on white: {tmp_path / 'cup.jpg'} (u2netp); "
                                   "picture 1 (alpha)")


def test_a_picture_of_the_size_is_framed_unless_it_is_on_white(caplog):
    grey = Image.fromarray((scene(SIZE, SIZE)[0] * 255).astype(np.uint8))
    white = Image.fromarray((framed().movedim(0, -1).numpy() * 255).round().astype(np.uint8))
    assert condition_views(white, SIZE).shape == (1, 3, SIZE, SIZE) and not caplog.messages
    assert condition_views(grey, SIZE)[0, :, 0, 0].tolist() == [1, 1, 1] and len(caplog.messages) == 1


def test_deep_pictures_are_not_clipped(tmp_path):
    grey = scene()[0].mean(-1)
    deep = Image.frombytes("I;16", (grey.shape[1], grey.shape[0]), (grey * 65535).astype("<u2").tobytes())
    deep.save(tmp_path / "deep.png")
    expected = load_photo(tmp_path / "deep.png", SIZE).image
    assert expected.mean() < 0.9
    for picture in (Image.open(tmp_path / "deep.png"), deep):
        assert torch.equal(condition_views(picture, SIZE)[0], expected)


def on(value):
    batch = torch.full((1, 3, SIZE, SIZE), 0.5)
    batch[0, 0, 0, 0] = value
    return batch


@pytest.mark.parametrize("images, message", [
    (on(255.0), "images: values from 0.5 to 255, expected 0 to 1; divide bytes by 255"),
    (on(-0.2), "values from -0.2 to 0.5, expected 0 to 1"), (on(np.nan), "not finite"), (on(np.inf), "not finite"),
    (np.full((9, 9, 3), 255.0), "the picture: values from 255 to 255"),
    (on(1.0).long(), "values of type int64; expected floats in 0 to 1 or bytes"),
    (np.zeros((9, 9, 3), complex), "values of type complex128"),
    (np.zeros((0, 9, 3)), "9 x 0 pixels are too few"), (torch.zeros(3, 0, 0), "0 x 0 pixels are too few"),
    (np.broadcast_to(np.float32(0.5), (10**6, 10**6, 3)), "1000000 x 1000000 pixels are too many"),
    (on(1.0).to_sparse(), "a sparse tensor, expected a dense one"), (on(1.0).to("meta"), "a meta tensor"),
    (np.zeros((9, 9, 3), object), "an array of type object"),
    (np.zeros((3, 9, 9)), r"an array of shape \(3, 9, 9\); expected \(H, W, 3\)"),
    (torch.zeros(9, 9, 3), r"a tensor of shape \(9, 9, 3\); expected \(3, H, W\)"), (torch.zeros(9), "of shape"),
    ([framed(), torch.zeros(2, 9, 9)], "picture 1: a tensor of shape"), ((), "no image to start from"),
    (torch.zeros(0, 3, SIZE, SIZE), "no image to start from"), (np.zeros((4, 4, 3)), "4 x 4 pixels are too few"),
    (None, "the picture: expected a path, .* got NoneType"), ([framed(), 7], "picture 1: expected .* got int"),
    ({"image": 1}, "got dict"), ("nowhere.png", "nowhere.png: no such file"),
    (np.zeros((40, 40, 4), np.uint8), "fully transparent"), (np.full((40, 50), 0.5), "no object stands out"),
])
def test_what_cannot_be_used(images, message):
    with pytest.raises(InputError, match=message) as caught:
        condition_views(images, SIZE)
    assert "\n" not in str(caught.value)


def test_rounding_is_forgiven():
    almost = on(1.0005)
    assert torch.equal(condition_views(almost, SIZE), almost)


def test_pictures_come_back_as_they_are_wanted():
    views = torch.rand(2, 3, 3, 8, 9)
    assert as_output_type(views, "pt") is views
    assert as_output_type(views, "np").shape == (2, 3, 8, 9, 3)
    pictures = as_output_type(views, "pil")
    assert [len(row) for row in pictures] == [3, 3] and pictures[0][0].size == (9, 8)
