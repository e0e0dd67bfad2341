"""The curves of a training run, redrawn while it runs."""

import contextvars
import io
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np

from ..errors import InputError, needs
from ..files import load_json

with needs("course", "what notebooks show"):
    from IPython.display import Image, display
    from matplotlib.figure import Figure

WINDOW = 8  # entries of the log
JOINT_LOSSES = {"multiview": "loss_mv", "reconstruction": "loss_recon"}


def read_log(folder: str | Path) -> list[dict[str, float]]:
    """The entries of a run's `log.jsonl` in the order of their steps; of a step done twice, before and after an
    interruption, the later one. Empty as long as nothing is logged; a line that is just being written is left out.
    Raises InputError for other lines that are no entries.
    """
    path = Path(folder) / "log.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.is_file() else []
    try:
        entries = [load_json(line) for line in lines if line.endswith("\n")]
        return [entry for _, entry in sorted({entry["step"]: entry for entry in entries}.items())]
    except (ValueError, TypeError, KeyError, RecursionError):
        raise InputError(f"{path}: one of its lines is no entry of a run's log; remove it") from None


def smooth(values: Sequence[float], window: int) -> np.ndarray:
    """(N,) to (N,): the mean of up to `window` values before and including each."""
    sums = np.concatenate([[0.0], np.cumsum(values)])
    last = np.arange(1, len(values) + 1)
    first = np.maximum(last - window, 0)
    return (sums[last] - sums[first]) / (last - first)


def draw_curves(log: Sequence[dict[str, float]], titles: Mapping[str, str]) -> bytes:
    """A PNG with one panel for each name in `titles`: what was logged, faint, and the mean of `WINDOW` entries.

    titles: what stands above the panel of each logged name.
    """
    # not of pyplot, which belongs to the main thread
    figure = Figure(figsize=(4.2 * len(titles), 2.8), dpi=72, layout="constrained")
    for axis, (name, title) in zip(figure.subplots(1, len(titles), squeeze=False)[0], titles.items(), strict=True):
        entries = [entry for entry in log if entry.get(name) is not None]
        steps, values = [entry["step"] for entry in entries], [entry[name] for entry in entries]
        axis.plot(steps, values, color="tab:blue", alpha=0.35, linewidth=1)
        axis.plot(steps, smooth(values, WINDOW), color="tab:blue", linewidth=2)
        axis.set(title=title, xlabel="step" if entries else "waiting for the first steps")
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.3)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


@contextmanager
def live_curves(folder: str | Path, titles: Mapping[str, str] = JOINT_LOSSES, every: float = 2.0) -> Iterator[None]:
    """Show the curves of the run in `folder` while the block trains it, drawn anew every `every` seconds.

    What the block prints, progress bars included, goes to `folder`/train.log. The notebook keeps the last picture.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)

    def picture() -> Image:
        return Image(draw_curves(read_log(folder), titles), format="png")

    shown, done = display(picture(), display_id=True), threading.Event()

    def redraw() -> None:
        while not done.wait(every):
            shown.update(picture())

    # the context says which cell the pictures belong to
    painter = threading.Thread(target=contextvars.copy_context().run, args=(redraw,), daemon=True)
    painter.start()
    try:
        with open(folder / "train.log", "a") as file, redirect_stdout(file), redirect_stderr(file):
            yield
    finally:
        done.set()
        painter.join()
        shown.update(picture())
