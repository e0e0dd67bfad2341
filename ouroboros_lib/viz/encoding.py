"""Pictures as few bytes, so that an executed notebook stays small."""

import io

import numpy as np
from PIL import Image

PALETTES = (16, 32, 64, 128, 256)  # colours of a PNG, tried in this order
BANDED, SHARE = 16, 95  # of 255, percentile: with larger errors smooth colours break into visible patches
WHITE, BLACK = 250, 5  # brighter, or darker, in all channels are backgrounds, which any palette shows right


def as_png(sheet: Image.Image) -> bytes:
    """With the smallest palette that suffices for what is not background, else with the largest."""
    sheet = sheet.convert("RGB")
    pixels = np.asarray(sheet, np.int16)
    drawn = (pixels < WHITE).any(-1) & (pixels > BLACK).any(-1)
    for colours in PALETTES:
        small = sheet.quantize(colours, Image.Quantize.MEDIANCUT, kmeans=1, dither=Image.Dither.NONE)
        errors = np.abs(np.asarray(small.convert("RGB"), np.int16) - pixels).max(-1)[drawn]
        if not errors.size or np.percentile(errors, SHARE) <= BANDED:
            break
    return _saved(small, "png", optimize=True)


def as_webp(sheet: Image.Image, quality: int = 80) -> bytes:
    """Lossy, a fraction of a PNG; for widgets and pages, whose browsers all read it. quality: 0 to 100."""
    return _saved(sheet.convert("RGB"), "webp", quality=quality, method=6)


def _saved(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()
