"""JSON of benchmarks to the tables of "What it costs": `python -m tools.costs_page FILES --price 2.5`.

The files are those that `tools.benchmark --json` and `tools.training_step json=FILE` wrote. Hours and money are for
--steps steps of --batch objects, estimated from the seconds of one step on average; the price of a GPU for an hour is
yours to state. Reading data, validation and checkpoints come on top.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

from ouroboros_lib.errors import InputError
from ouroboros_lib.files import read_json
from tools import one_line_for_bad_input
from tools.training_step import AVERAGE, WITH, WITHOUT

STEPS, BATCH = 30_000, 32  # the paper's
# settings that are shown, if they were given
OPTIONS = ("batch_size", "accumulation", "compile", "cuda_graphs", "gradient_checkpointing", "mixed_precision",
           "ema_device", "lpips")


@dataclass
class CostPlan:
    """What hours and money are computed for: steps of `batch` objects, and the price of one GPU for an hour."""

    price: float
    currency: str = "USD"
    steps: int = STEPS
    batch: int = BATCH


def costs_page(files: list[str | Path], plan: CostPlan) -> str:
    """Markdown of all measurements in the files, in their order. Raises InputError for what is no measurement."""
    inference, training = [], []
    for path in files:
        made = read_json(path)
        kind = made.get("kind") if isinstance(made, dict) else None
        if kind not in ("inference", "training"):
            raise InputError(f"{path}: no measurement of inference or training; write one with the benchmarks' --json")
        try:
            for record in made["records"]:
                if kind == "inference":
                    inference.append(_inference_row(record, made["device"]))
                else:
                    training.append((record, made["device"]))
        except (KeyError, TypeError) as error:
            raise InputError(f"{path}: lacks {error}; measure it anew with this version") from None
    parts = []
    if inference:
        parts.append(_table(("preset", "device", "mode", "objects", "steps", "plan", "seconds", "GiB in tensors",
                             "GiB reserved", "F", "decoder", "G", "renders"), inference))
    if training:
        rows = [_training_row(record, device, plan, training) for record, device in training]
        parts.append(_table(("preset", "devices", "settings", "s a step", "without feedback", "with", "GiB in tensors",
                             "GiB reserved", "objects a second", "times one", "hours", plan.currency), rows))
        parts.append(f"Hours and {plan.currency}: {plan.steps:,} steps of {plan.batch} objects at {plan.price:g} "
                     f"{plan.currency} for a GPU and hour, estimated from the seconds of a step.\n")
    return "\n".join(parts)


def _inference_row(record: dict, device: str) -> list[str]:
    parts = record["parts"]
    return [record["preset"], device, record["mode"], str(record["batch"]), str(record["steps"]), record["plan"],
            f"{record['seconds']:.2f}", _gib(record["allocated"]), _gib(record["reserved"]),
            *(f"{parts[name]:.2f}" for name in ("F", "decoder", "G", "renders"))]


def _training_row(record: dict, device: str, plan: CostPlan, everything: list[tuple[dict, str]]) -> list[str]:
    step, processes = record["parts"][AVERAGE], record["processes"]
    rate = objects_a_second(record)
    hours = plan.steps * plan.batch / rate / 3600
    alone = next((objects_a_second(other) for other, where in everything if other["processes"] == 1
                  and where == device and other["settings"] == record["settings"]), None)
    devices = device if processes == 1 else f"{processes} x {device}, {'FSDP' if record['sharded'] else 'DDP'}"
    settings = ", ".join(s for s in record["settings"] if s.partition("=")[0] in OPTIONS)
    return [record["preset"], devices, settings, f"{step['seconds']:.3f}",
            *(f"{record['parts'][name]['seconds']:.3f}" for name in (WITHOUT, WITH)), _gib(step["allocated"]),
            _gib(step["reserved"]), f"{rate:.2f}", "-" if alone is None else f"{rate / alone:.2f}", f"{hours:,.0f}",
            f"{hours * processes * plan.price:,.0f}"]


def objects_a_second(record: dict) -> float:
    """Of all processes together."""
    return record["objects a step"] / record["parts"][AVERAGE]["seconds"]


def _gib(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _table(head: tuple[str, ...], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.costs_page",
                                     description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--price", type=float, required=True, help="of one GPU for one hour")
    parser.add_argument("--currency", default="USD")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--batch", type=int, default=BATCH)
    options = parser.parse_args(arguments)
    with one_line_for_bad_input():
        plan = CostPlan(options.price, options.currency, options.steps, options.batch)
        print(costs_page(options.files, plan), end="")


if __name__ == "__main__":
    main()
