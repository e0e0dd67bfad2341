"""A camera that goes once round the object."""

from pathlib import Path

import torch
from torch import Tensor

from ..cameras import evenly_spaced_orbit
from ..errors import InputError
from ..gaussians import Gaussians
from ..rasterization import rasterize


@torch.no_grad()
def render_turntable(gaussians: Gaussians, elevation: float = 10.0, frames: int = 48, size: int = 256) -> Tensor:
    """One set of Gaussians (N) seen from `frames` directions, starting in front: (frames, 3, size, size) on the CPU."""
    cameras = evenly_spaced_orbit(frames, elevation).to(gaussians.device)
    parts = [rasterize(gaussians, cameras.views(slice(start, start + 8)), size).rgb.clamp(0, 1).cpu()
             for start in range(0, frames, 8)]  # eight at a time: memory
    return torch.cat(parts)


def write_mp4(path: str | Path, frames: Tensor, fps: int = 24) -> None:
    """(T, 3, H, W) in [0, 1], even sides, as H.264 (yuv420p), which every browser plays. Raises InputError."""
    from imageio.v2 import mimwrite

    height, width = frames.shape[-2:]
    if height % 2 or width % 2:
        raise ValueError(f"H.264 needs even sides, got {width} x {height}")
    check_ffmpeg()
    pixels = (frames.clamp(0, 1) * 255).round().byte().movedim(1, -1).contiguous().numpy()
    mimwrite(path, pixels, "FFMPEG", fps=fps, codec="libx264", quality=None, pixelformat="yuv420p", macro_block_size=2,
             output_params=["-crf", "18", "-movflags", "+faststart"], ffmpeg_log_level="error")


def check_ffmpeg() -> str:
    """Path of the ffmpeg program. Raises InputError when there is none."""
    import imageio_ffmpeg

    try:
        return imageio_ffmpeg.get_ffmpeg_exe()
    except RuntimeError as error:
        raise InputError("no ffmpeg program for turntable.mp4: reinstall imageio-ffmpeg, which brings one, or set "
                         "IMAGEIO_FFMPEG_EXE to yours") from error
