"""Pictures as few bytes, so that an executed notebook stays small."""

import io

import numpy as np
from PIL import Image

PALETTES = (64, 128, 256)  # colours of a PNG, tried in this order
METHODS = (Image.Quantize.MEDIANCUT, Image.Quantize.MAXCOVERAGE)  # the second spends few colours on backgrounds
TILE, BANDED, SHARE = 16, 4, 95  # pixels a side; of 255, mean of a tile; percentile of tiles. With larger errors smooth
# colours, such as those of a coordinate map, break into visible patches
SAMPLED = 30_000  # pixels at least that palettes are made of: of all, it takes many seconds
WHITE, BLACK = 250, 5  # brighter, or darker, in all channels are backgrounds, which any palette shows right


def as_png(sheet: Image.Image) -> bytes:
    """The smallest with a palette that suffices for the tiles that show more than background; where none does, the
    errors of the best of the largest are spread over neighbours."""
    sheet = sheet.convert("RGB")
    pixels = np.asarray(sheet, np.int16)
    foreground = (pixels < WHITE).any(-1) & (pixels > BLACK).any(-1)
    drawn = _tiles(foreground) > 0.25
    flat = np.asarray(sheet).reshape(1, -1, 3)
    some = Image.fromarray(np.ascontiguousarray(flat[:, ::flat.shape[1] // SAMPLED | 1]))

    def error(small: Image.Image) -> float:
        errors = _tiles(np.abs(np.asarray(small.convert("RGB"), np.int16) - pixels).max(-1))[drawn]
        return float(np.percentile(errors, SHARE)) if errors.size else 0.0

    found = _colours(sheet)
    for colours in PALETTES:
        tried = [_nearest(found, some.quantize(colours, method, kmeans=1)) for method in METHODS]
        if sufficient := [_saved(small, "png", optimize=True) for small in tried if error(small) <= BANDED]:
            return min(sufficient, key=len)
    small = min(tried, key=error)
    spread = sheet.quantize(palette=small, dither=Image.Dither.FLOYDSTEINBERG)
    result = Image.fromarray(np.where(foreground, np.asarray(spread), np.asarray(small)).astype(np.uint8))
    result.putpalette(small.getpalette())
    return _saved(result, "png", optimize=True)


def _colours(sheet: Image.Image) -> tuple[np.ndarray, np.ndarray]:
    """The colours of a picture, (N, 3), and which of them each pixel has, (H, W)."""
    colours, places = np.unique(np.asarray(sheet).reshape(-1, 3).astype(np.int32) @ (1 << 16, 1 << 8, 1),
                                return_inverse=True)
    return (colours[:, None] >> np.array([16, 8, 0]) & 255).astype(np.float32), places.reshape(sheet.height, -1)


def _nearest(found: tuple[np.ndarray, np.ndarray], like: Image.Image) -> Image.Image:
    """A picture of these colours in the palette of another one, each pixel in the nearest. Pillow's own way is by a
    colour near the nearest, which is seen on white."""
    colours, places = found
    palette = np.array(like.getpalette(), np.float32).reshape(-1, 3)
    index = ((palette**2).sum(1) - 2 * colours @ palette.T).argmin(1).astype(np.uint8)
    small = Image.fromarray(index[places])
    small.putpalette(like.getpalette())
    return small


def _tiles(values: np.ndarray) -> np.ndarray:
    """Means of (H, W) over tiles; what does not fill a tile at the right and at the bottom is left out."""
    rows, columns = (max(side // TILE, 1) for side in values.shape)
    tiles = values[:rows * TILE, :columns * TILE].astype(np.float32)
    height, width = tiles.shape
    return tiles.reshape(rows, height // rows, columns, width // columns).mean((1, 3)).ravel()


def at_once(sheet: Image.Image) -> bytes:
    """A PNG with all colours, for who waits for it: `as_png` takes a second or two."""
    return _saved(sheet.convert("RGB"), "png", compress_level=1)


def as_webp(sheet: Image.Image, quality: int = 80, effort: int = 6) -> bytes:
    """Lossy, a fraction of a PNG; for widgets and pages, whose browsers all read it. quality: 0 to 100. effort: 0 to 6,
    of which 2 takes a quarter of the time of 6, for 5 % more bytes of the same quality."""
    return _saved(sheet.convert("RGB"), "webp", quality=quality, method=effort)


def _saved(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()
