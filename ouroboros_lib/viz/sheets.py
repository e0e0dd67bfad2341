"""Labelled grids of small pictures, with PIL alone."""

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ..files import new_file

INK, FAINT = (32, 32, 36), (226, 226, 230)
GAP = 3  # pixels between pictures
MIN_TILE = 96  # smaller tiles are enlarged by a whole factor, so that labels fit and pixels stay square


def to_pil(image: Tensor) -> Image.Image:
    """(3, H, W) in [0, 1] to an RGB picture; values outside are clipped."""
    pixels = (image.detach().float().cpu().clamp(0, 1) * 255).round().byte()
    return Image.fromarray(pixels.movedim(0, -1).contiguous().numpy())


def image_grid(images: Tensor | Sequence[Sequence[Tensor | None]], path: str | Path | None = None,
               row_labels: Sequence[str] | None = None, column_labels: Sequence[str] | None = None,
               column_groups: Sequence[tuple[str, int]] | None = None, title: str | None = None,
               side: int | None = None) -> Image.Image:
    """A sheet of R x C pictures of one size; returned, and written to `path` if given.

    images: (R, C, 3, H, W) in [0, 1], or R lists of C tensors (3, H, W); None leaves a place empty.
    row_labels stand left of the rows and may have several lines, column_labels above the columns.
    column_groups: (label, number of columns) from left to right; groups stand a little apart, under their label.
    side: pixels of a picture's shorter side, to which it is scaled smoothly. Raises ValueError for other shapes.
    """
    rows = [list(row) for row in images]
    tiles = [tile for row in rows for tile in row if tile is not None]
    if not tiles or len({len(row) for row in rows}) != 1 or len({tuple(tile.shape) for tile in tiles}) != 1:
        raise ValueError("images must be rows of equal length with pictures (3, H, W) of one size")
    columns, groups = len(rows[0]), column_groups or [("", len(rows[0]))]
    for labels, count, name in ((row_labels, len(rows), "row_labels"), (column_labels, columns, "column_labels"),
                                (range(sum(size for _, size in groups)), columns, "column_groups")):
        if labels is not None and len(labels) != count:
            raise ValueError(f"{name}: expected {count}, got {len(labels)}")

    smaller = min(tiles[0].shape[-2:])
    factor = side / smaller if side else -(-MIN_TILE // smaller)
    height, width = (round(factor * pixels) for pixels in tiles[0].shape[-2:])
    font = ImageFont.load_default(max(12, round(0.11 * min(height, width))))
    line = font.getbbox("Agy")[3] + 4
    margin = 2 * GAP

    lefts, group_starts = [], []
    x = margin + (max(_text_width(font, label) for label in row_labels) + 2 * margin if row_labels else 0)
    for _, size in groups:
        group_starts.append(x)
        lefts += [x + column * (width + GAP) for column in range(size)]
        x += size * (width + GAP) + 3 * GAP
    sheet_width = x - 4 * GAP + margin
    y = margin
    title_y, y = y, y + (line + GAP if title else 0)
    group_y, y = y, y + (line if column_groups else 0)
    label_y, y = y, y + (line if column_labels else 0)
    tops = [y + row * (height + GAP) for row in range(len(rows))]
    sheet = Image.new("RGB", (sheet_width, tops[-1] + height + margin), "white")
    resample = Image.Resampling.BICUBIC if side else Image.Resampling.NEAREST
    draw = ImageDraw.Draw(sheet)

    if title:
        draw.text((margin, title_y), title, INK, font)
    for start, (label, size) in zip(group_starts, groups, strict=True):
        draw.text((start + (size * (width + GAP) - GAP) / 2, group_y), label, INK, font, anchor="ma")
    for left, label in zip(lefts, column_labels or [], strict=False):
        draw.text((left + width / 2, label_y), label, INK, _fit(label, font, width), anchor="ma")
    for top, row in zip(tops, rows, strict=True):
        for left, tile in zip(lefts, row, strict=True):
            if tile is not None:
                sheet.paste(to_pil(tile).resize((width, height), resample), (left, top))
            draw.rectangle((left - 1, top - 1, left + width, top + height), outline=FAINT)
    for top, label in zip(tops, row_labels or [], strict=False):
        draw.multiline_text((margin, top + height / 2), label, INK, font, anchor="lm")
    if path is not None:
        with new_file(Path(path)) as part:
            sheet.save(part, compress_level=4)  # two thirds of the time of 6, for 1 % more bytes
    return sheet


def _text_width(font, label: str) -> int:
    return max(round(font.getlength(part)) for part in label.split("\n"))


def _fit(label: str, font, width: int):
    """The font, smaller if the label is wider than its column."""
    length = _text_width(font, label)
    return font if length <= width else ImageFont.load_default(max(8, int(font.size * width / length)))


def multiview_sheet(views: Tensor, renders: Tensor, path: str | Path | None = None) -> Image.Image:
    """The generated views above the renders of their reconstruction, both (V, 3, H, W)."""
    count = len(views)
    labels = [f"view {v}, {360 * v / count:g}\N{DEGREE SIGN}" for v in range(count)]
    return image_grid(torch.stack([views.cpu(), renders.cpu()]), path, ["views", "3D\nrenders"], labels)


def evenly_chosen(count: int, steps: int = 6) -> list[int]:
    """At most `steps` of the indices 0 ... count - 1, evenly spaced, with the first and the last."""
    return sorted({round(i * (count - 1) / max(1, steps - 1)) for i in range(steps)})


def recursion_sheet(trace: Sequence, path: str | Path | None = None) -> Image.Image:
    """The recursion from noise to views: a row for each of six steps, four views of the batch's first object.

    trace: the pipeline's records with sigma, noisy, views, rgb, ccm, each (B, V, 3, H, W). Four groups of columns: the
    noisy latents decoded, F's estimate, and the RGB and CCM renders of G's Gaussians that feed the next step.
    """
    if not trace:
        raise ValueError("the trace is empty: call the pipeline with return_trace=True")
    chosen = [trace[i] for i in evenly_chosen(len(trace))]
    views = trace[0].views.shape[1]
    shown = range(0, views, -(-views // 4))
    rows = [[getattr(step, name)[0, view] for name in ("noisy", "views", "rgb", "ccm")
             for view in shown] for step in chosen]
    groups = [(label, len(shown)) for label in ("noisy", "estimate of F", "RGB render of G", "CCM render of G")]
    labels = [f"step {step.index + 1}\nsigma {step.sigma:.2g}" for step in chosen]
    return image_grid(rows, path, labels, [f"view {view}" for view in shown] * len(groups), groups)
