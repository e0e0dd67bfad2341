"""Where the object is in a picture without an alpha channel: by U-2-Net's small size, which ships, by rembg's larger
`u2net` where it is asked for, or guessed from the colours of the border where neither can run."""

import importlib.util
import logging
import os
from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ..errors import InputError
from ..files import one_line
from .pictures import to_linear

U2NETP = Path(__file__).parents[1] / "presets" / "weights" / "u2netp" / "u2netp.onnx"
SIDE = 320  # pixels, of what U-2-Net sees
MEAN, DEVIATION = np.array([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]], np.float32)  # ImageNet's
LEAST = 0.5  # where no probability reaches this there is no object
UNSURE = 0.8  # a mean opacity below this means that parts of the object were hardly seen

_log = logging.getLogger(__name__)


def estimate_matte(name: str, rgb: np.ndarray, model: str) -> tuple[str, np.ndarray, list[str]]:
    """How the object was found, its matte (H, W) float32 in [0, 1], and notes; of sRGB (H, W, 3) in [0, 1].

    model: "auto", which is u2netp, or "u2net", rembg's (176 MB, Apache-2.0). One that cannot run is replaced by u2netp,
    and that by a guess from the border's colours; a note says so. Raises InputError when no object stands out, or when
    u2net is asked for and rembg is not installed.
    """
    finders = {"u2netp": u2netp_matte}
    if model == "u2net":
        if importlib.util.find_spec("rembg") is None:
            raise InputError("--background u2net: rembg is not installed; pip install -e '.[photo]'")
        finders = {"u2net": u2net_matte} | finders
    failures = []
    for found_by, find in finders.items():
        try:
            alpha = find(rgb)
            break
        # anything may go wrong in there: no network, damaged weights, no onnxruntime (rembg then calls sys.exit)
        except (Exception, SystemExit) as error:
            failures.append(f"{found_by} cannot run ({one_line(error)})")
    else:
        found_by, alpha = "border", border_matte(rgb)
    if not 0.002 < (alpha > 0.5).mean() < 0.97:
        raise InputError(f"{name}: no object stands out in the picture; give one with a transparent background, or "
                         "take the whole picture (--background keep)")
    notes = []
    if failures:
        instead = "guessed from the border of the picture" if found_by == "border" else f"found by {found_by}"
        notes.append(f"{name}: {', '.join(failures)}; the background was {instead}: look at the result")
    if alpha[alpha > 0.1].mean() < UNSURE:
        notes.append(f"{name}: {found_by} hardly saw parts of the object: look at the result; a transparent background "
                     "is used as it is")
    return found_by, alpha, notes


def u2netp_matte(rgb: np.ndarray) -> np.ndarray:
    """The matte (H, W) of sRGB (H, W, 3) in [0, 1] by U-2-Net (Qin et al. 2020) in its small size."""
    session = u2netp_session()
    small = np.asarray(_picture(rgb).resize((SIDE, SIDE), Image.LANCZOS), np.float32)
    planes = (small / max(small.max(), 1e-6) - MEAN) / DEVIATION
    seen = session.run(None, {session.get_inputs()[0].name: planes.transpose(2, 0, 1)[None]})[0][0, 0]
    if seen.max() < LEAST:
        return np.zeros(rgb.shape[:2], np.float32)
    seen = (seen - seen.min()) / (seen.max() - seen.min())
    matte = np.asarray(Image.fromarray(seen).resize(rgb.shape[1::-1], Image.LANCZOS))
    return np.clip((matte - 0.1) / 0.8, 0, 1)  # no veil of background, no pale spots in the object


@cache
def u2netp_session():
    """The remover that ships, as an onnxruntime session. Raises ImportError without onnxruntime."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # errors only
    return onnxruntime.InferenceSession(str(U2NETP), options, providers=["CPUExecutionProvider"])


def u2net_matte(rgb: np.ndarray) -> np.ndarray:
    """The same by rembg's model `u2net`, which it fetches if need be."""
    if u2net_file() is None:
        _log.warning("rembg fetches its model u2net once: 176 MB, Apache-2.0")
    from rembg import new_session, remove

    mask = remove(_picture(rgb), session=new_session("u2net"), only_mask=True)
    return np.asarray(mask.convert("L"), dtype=np.float32) / 255


def u2net_file() -> Path | None:
    """rembg's model, where its older and newer versions look for it; None when it is still to be fetched."""
    folders = (os.environ.get("U2NET_HOME") or "~/.u2net",
               os.path.join(os.environ.get("REMBG_HOME") or "~/.rembg", "models", "u2net"))
    files = [Path(folder, "u2net.onnx").expanduser() for folder in folders]
    return next((file for file in files if file.is_file()), None)


def _picture(rgb: np.ndarray) -> Image.Image:
    return Image.fromarray((rgb * 255).round().astype(np.uint8))


def border_matte(rgb: np.ndarray) -> np.ndarray:
    """Guess the object in (H, W, 3) sRGB in [0, 1]: whatever differs from the border and is enclosed by it.

    A quadratic in x and y is fitted to the CIELAB colours of the border, robustly, so that gradients and a few
    foreign pixels do no harm. Background is what lies close to it *and* hangs together with the border; holes are
    filled. Returns a soft matte (H, W) float32. It works for plain backgrounds, not for busy ones.
    """
    from scipy import ndimage

    height, width = rgb.shape[:2]
    lab = _to_lab(rgb)
    lab[..., 0] *= 0.6  # shadows change lightness more than hue
    y, x = np.meshgrid(np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing="ij")
    terms = np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], axis=-1).astype(np.float32)
    ring = np.zeros((height, width), bool)
    band = max(1, round(0.02 * min(height, width)))
    ring[:band] = ring[-band:] = ring[:, :band] = ring[:, -band:] = True

    design, colors = terms[ring], lab[ring]
    kept = np.linalg.norm(colors - np.median(colors, axis=0), axis=-1)
    kept = kept <= max(np.quantile(kept, 0.7), 12.0)
    for _ in range(8):
        weights, *_ = np.linalg.lstsq(design[kept], colors[kept], rcond=None)
        residuals = np.linalg.norm(colors - design @ weights, axis=-1)
        spread = max(float(np.median(residuals[kept])), 0.5)
        kept = residuals <= max(3 * spread, np.quantile(residuals, 0.5))
    threshold = max(3.5 * spread, 5.0)

    smoothing = 0.5 + min(spread, 4.0) / 4  # noise blurs away, edges move little
    residual = ndimage.gaussian_filter(lab - terms @ weights, (smoothing, smoothing, 0))
    distance = np.linalg.norm(residual, axis=-1)
    # averaging over the filter's support shrinks noise, and the threshold may follow it
    threshold = max(threshold / (2 * smoothing), 5.0)
    labels, _ = ndimage.label(distance < threshold)
    edge = np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])
    background = np.isin(labels, np.unique(edge[edge > 0]))
    mask = ndimage.binary_fill_holes(~background)
    # the blur moved the edge of a distinct object outwards by about its own width
    mask = ndimage.binary_erosion(mask, iterations=max(1, round(smoothing)), border_value=1)
    radius = max(1, round(0.003 * max(height, width)))
    mask = ndimage.binary_opening(mask, iterations=radius)
    labels, count = ndimage.label(mask)
    if count == 0:
        return np.zeros((height, width), np.float32)
    areas = np.bincount(labels.ravel())[1:]
    mask = np.isin(labels, 1 + np.flatnonzero(areas >= 0.1 * areas.max()))
    soft = ndimage.gaussian_filter(mask.astype(np.float32), 1.0)
    return np.clip(2 * soft - 0.7, 0, 1)  # half a pixel inwards, where the object's own colour begins


def _to_lab(rgb: np.ndarray) -> np.ndarray:
    """sRGB (..., 3) in [0, 1] to CIELAB with the D65 white point."""
    xyz = to_linear(rgb) @ np.array([[0.4124564, 0.2126729, 0.0193339], [0.3575761, 0.7151522, 0.1191920],
                             [0.1804375, 0.0721750, 0.9503041]]) / np.array([0.95047, 1.0, 1.08883])
    f = np.where(xyz > 216 / 24389, np.cbrt(xyz), (24389 / 27 * xyz + 16) / 116)
    return np.stack([116 * f[..., 1] - 16, 500 * (f[..., 0] - f[..., 1]), 200 * (f[..., 1] - f[..., 2])],
                    axis=-1).astype(np.float32)
