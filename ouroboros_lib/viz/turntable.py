"""Where notebooks look for the turntable."""

from ..export.turntable import render_turntable, write_mp4

__all__ = ["render_turntable", "write_mp4"]
