"""A camera that goes once round the object."""

from contextlib import suppress
from pathlib import Path

from PIL import Image
from torch import Tensor

from ..cameras import evenly_spaced_orbit
from ..errors import InputError
from ..files import new_file
from ..gaussians import INVISIBLE, Gaussians
from .views import render_views


def render_turntable(gaussians: Gaussians, elevation: float = 10.0, frames: int = 48, size: int = 256) -> Tensor:
    """One set of Gaussians (N) seen from `frames` directions, starting in front: (frames, 3, size, size) on the CPU."""
    seen = gaussians[~(gaussians.opacities < INVISIBLE)]  # the others, three of four, take time in every frame
    return render_views(seen, evenly_spaced_orbit(frames, elevation), size, background=1.0).rgb.clamp(0, 1)


def write_mp4(path: str | Path, frames: Tensor, fps: int = 24) -> None:
    """(T, 3, H, W) in [0, 1], even sides, as H.264 (yuv420p), which every browser plays. Raises InputError, and OSError
    where ffmpeg could not write all of it."""
    from imageio.v2 import mimwrite
    from imageio_ffmpeg import count_frames_and_secs

    path, (height, width) = Path(path), frames.shape[-2:]
    if height % 2 or width % 2:
        raise ValueError(f"H.264 needs even sides, got {width} x {height}")
    check_ffmpeg()
    pixels = (frames.clamp(0, 1) * 255).round().byte().movedim(1, -1).contiguous().numpy()
    with new_file(path) as part:
        part = part.absolute()  # ffmpeg takes what stands before a colon for a protocol
        mimwrite(part, pixels, "FFMPEG", fps=fps, codec="libx264", quality=None, pixelformat="yuv420p",
                 macro_block_size=2, output_params=["-crf", "18", "-movflags", "+faststart"], ffmpeg_log_level="fatal")
        with suppress(RuntimeError):
            if count_frames_and_secs(part)[0] == len(pixels):  # ffmpeg's own exit code is not to be had
                return
        raise OSError(f"ffmpeg could not write {path.name} to the end; is the disk full?")


def write_turntable(path: Path, kind: str, gaussians: Gaussians, elevation: float, size: int) -> None:
    """Gaussians (N,) once round, as "mp4", or as "gif" or "webp" that start again for ever. Raises InputError."""
    if kind == "mp4" and size % 2:
        raise InputError(f"size {size}: an mp4 needs an even one")
    frames = render_turntable(gaussians, elevation, size=size)
    if kind == "mp4":
        write_mp4(path, frames)
        return
    pixels = (frames * 255).round().byte().movedim(1, -1).contiguous().numpy()
    first, *others = map(Image.fromarray, pixels)
    with new_file(path) as part:
        first.save(part, kind, save_all=True, append_images=others, duration=40, loop=0)


def check_ffmpeg() -> str:
    """Path of the ffmpeg program. Raises InputError when there is none."""
    import imageio_ffmpeg

    try:
        return imageio_ffmpeg.get_ffmpeg_exe()
    except RuntimeError as error:
        raise InputError("no ffmpeg program for turntable.mp4: reinstall imageio-ffmpeg, which brings one, or set "
                         "IMAGEIO_FFMPEG_EXE to yours") from error
