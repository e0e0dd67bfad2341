"""Several training runs that build on each other, from one file: the shipped weights, the rows of an ablation.

A recipe is a JSON file: preset, settings for all stages, and stages with name, settings, init, gpus, seeds and
evaluate. A stage is one `ouroboros train` command, or one for each of its seeds; `init` names earlier stages, as NAME
or component=NAME, a preset or pipeline folders. `evaluate` holds fields of EvaluationConfig: `ouroboros evaluate`
follows as a stage of its own, into OUT/evaluation; `compare` says which of those are compared in the end
(evaluation/ablation.py). `needs` names what must be given from outside: init, where stages without one start, and
data, rendered objects. Stages whose predecessors are done run side by side, as many as there are GPUs for.
"""

import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Literal, TypedDict

from torch.distributed.elastic.utils.distributed import get_free_port

from ..errors import InputError
from ..evaluation.backbones import lpips_network
from ..evaluation.config import ON_THE_FLY, EvaluationConfig
from ..files import read_json, termination_cleans_up, where
from ..files.one_writer import Lock, only_writer
from ..values import Between, Natural, checked
from .checkpoints import checkpoints
from .children import end, end_orphans, program, start
from .config import TrainingConfig

RECIPES = Path(__file__).parent / "recipes"


class _Named(TypedDict):
    name: str


class Entry(_Named, total=False):
    """What a recipe says about a stage."""

    settings: dict[str, bool | int | float | str]
    init: list[str]
    gpus: Annotated[int, Between(1, 1024)]
    seeds: list[Natural]
    evaluate: dict


class _Needed(TypedDict):
    preset: str
    stages: list[Entry]


class Recipe(_Needed, total=False):
    """What is read of a recipe's file."""

    settings: dict[str, bool | int | float | str]
    evaluate: dict
    compare: list[tuple[str, str, str]]
    needs: list[Literal["init", "data"]]


@dataclass
class Stage:
    """One run of `ouroboros train`, or of `ouroboros evaluate` if `evaluates` names the stage that made the weights.

    settings: fields of TrainingConfig, or of EvaluationConfig; after: names of the stages it starts from.
    """

    name: str
    preset: str
    settings: dict
    init: list[str]
    after: list[str]
    gpus: int = 1
    evaluates: str = ""
    data: str = ""
    folder: str = "evaluation"  # below OUT, for what an evaluation writes
    processes: list[subprocess.Popen] = field(default_factory=list)
    devices: list[int] = field(default_factory=list)
    started: float = 0.0

    def arguments(self, out: Path) -> list[str]:
        """What follows `ouroboros` to run this stage by hand."""
        if self.evaluates:
            words = ["evaluate", "--preset", str(out / self.evaluates / "pipeline"),
                     "--out", str(out / self.folder / self.evaluates)]
            for name, value in self.settings.items():
                for each in value if isinstance(value, list) else [value]:
                    if each is None or each is False:
                        continue
                    words += ["--" + name.replace("_", "-")] + ([] if each is True else [str(each)])
            return words
        words = ["train", "--preset", self.preset, "--out", str(out / self.name)]
        for entry in self.init:
            component, equals, source = entry.rpartition("=")
            path = str(out / source / "pipeline") if source in self.after else source
            words += ["--init", component + equals + path]
        if self.data:
            words += ["--data", self.data]
        for setting in self.assignments():
            words += ["--set", setting]
        return words

    def spread_over(self, gpus: int) -> None:
        """Train on as many GPUs, at most `gpus`, as can share the global batch; for as many GPU minutes, where the
        clock ends the run. Fewer than the recipe names accumulate more batches, more of them share out what it
        accumulates, then the batch."""
        config = TrainingConfig.from_settings(self.assignments())
        joint = ("reconstruction_batch",) if config.stage == "joint" else ()
        for count in range(gpus, 0, -1):
            batches = Fraction(config.accumulation * self.gpus, count)  # of each process, in a step
            among = batches.denominator
            if all(getattr(config, name) % among == 0 for name in ("batch_size", *joint)):
                break
        changed = {"accumulation": batches.numerator, "max_minutes": config.max_minutes * self.gpus / count,
                   **{name: getattr(config, name) // among for name in ("batch_size", *joint)}}
        self.settings |= {name: value for name, value in changed.items() if value != getattr(config, name)}
        self.gpus = count

    def result(self, out: Path) -> Path:
        """The file that is written last: the stage is done when it is there."""
        if self.evaluates:
            return out / self.folder / f"{self.evaluates}.json"
        return out / self.name / "pipeline" / "model_index.json"

    def assignments(self) -> list[str]:
        return [f"{key}={str(value).lower() if isinstance(value, bool) else value}"
                for key, value in self.settings.items()]


def load_recipe(name: str, start: str = "", data: str = "", changes: Sequence[str] = (), tests: Sequence[str] = ()
                ) -> list[Stage]:
    """The stages of a recipe that ships, by name, or of a JSON file.

    start: a pipeline folder in which stages start that do not say where; data: what all of them learn from; changes:
    KEY=VALUE for the settings of all stages, or STAGE.KEY=VALUE of one; tests: folders of rendered objects, on which
    what is evaluated is measured as well. Raises InputError for what cannot run: unknown names, keys or settings, or a
    stage before its predecessor.
    """
    path, record = _read(name)
    entries, shared, preset = record["stages"], record.get("settings", {}), record["preset"]
    shared_options = record.get("evaluate", {})
    if unknown := record.keys() - Recipe.__required_keys__ - Recipe.__optional_keys__:
        raise InputError(f"{path}: no recipe has {', '.join(sorted(unknown))}")
    if not entries:
        raise InputError(f"{path}: stages: there are none")
    if seedless := [entry["name"] for entry in entries if entry.get("seeds") == []]:
        raise InputError(f"{path}: {seedless[0]}: seeds: there are none")
    stages: list[Stage] = []
    for entry in _one_for_each_seed(entries):
        if not re.fullmatch(r"\w[\w.-]*", entry["name"]):
            raise InputError(f"{path}: a stage is called {entry['name']!r}; its name becomes a folder's: letters, "
                             "digits and .-_, such as joint-2")
        if unknown := entry.keys() - Entry.__required_keys__ - Entry.__optional_keys__:
            raise InputError(f"{path}: a stage has name, settings, init, gpus, seeds and evaluate, not "
                             f"{', '.join(sorted(unknown))}")
        earlier = [stage.name for stage in stages]
        if entry["name"] in earlier:
            raise InputError(f"{path}: two stages are called {entry['name']}")
        init = entry.get("init", [start] if start else [])
        sources = [source.rpartition("=")[2] for source in init]
        stage = Stage(entry["name"], preset, shared | entry.get("settings", {}), init,
                      [source for source in sources if source in earlier], entry.get("gpus", 1), data=data)
        for source in sources:
            if source not in earlier and source != preset and not Path(source).is_dir():
                raise InputError(f"{path}: {stage.name} starts from {source}, which is neither an earlier stage nor a "
                                 "pipeline folder")
        stage.settings |= dict(_changes(entry, changes))
        try:
            TrainingConfig.from_settings(stage.assignments())
        except InputError as error:
            raise InputError(f"{path}: {stage.name}: {error}") from None
        stages.append(stage)
        if "evaluate" in entry:
            stages += _evaluations(stage, shared_options | entry["evaluate"], tests, path)
    if unknown := [change for change in changes if "." in change.partition("=")[0]
                   and change.partition(".")[0] not in {entry["name"] for entry in entries}]:
        raise InputError(f"--set {unknown[0]}: {path} has no stage of this name")
    return stages


def _evaluations(stage: Stage, options: dict, tests: Sequence[str], path: Path) -> list[Stage]:
    """What measures the weights that a stage makes. Raises InputError."""
    try:
        EvaluationConfig.from_options(options)
    except InputError as error:
        raise InputError(f"{path}: {stage.name}, evaluate: {error}") from None
    name, on_tests = stage.name, {key: value for key, value in options.items() if key not in ON_THE_FLY}
    return [Stage(f"evaluate-{name}", stage.preset, options, [], [name], evaluates=name),
            *(Stage(f"evaluate-{name}-{Path(test).name}", stage.preset, on_tests | {"data": test}, [], [name],
                    evaluates=name, folder=f"evaluation-{Path(test).name}") for test in tests)]


def _changes(entry: dict, changes: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Those that are for a stage, as names and values."""
    for change in changes:
        key, _, value = change.partition("=")
        stage, dot, key = key.rpartition(".")
        if not dot or stage == re.sub(r"-seed\d+$", "", entry["name"]):
            yield key, value


def check_needs(name: str, **given: str) -> None:
    """Raise InputError unless everything is given that a recipe needs from outside."""
    for need in _read(name)[1].get("needs", []):
        if not given.get(need):
            raise InputError(f"recipe {name}: needs --{need} DIR, " + (
                "what `ouroboros convert svd` wrote" if need == "init" else "multi-view folders, shards or meshes"))


def load_comparisons(name: str) -> list[list[str]]:
    """What a recipe compares in the end, see evaluation/ablation.py; often nothing."""
    return _read(name)[1].get("compare", [])


def _read(name: str) -> tuple[Path, Recipe]:
    path = RECIPES / f"{name}.json"
    if not path.is_file():
        path = Path(name)
    if not path.is_file():
        known = ", ".join(sorted(recipe.stem for recipe in RECIPES.glob("*.json")))
        raise InputError(f"{name}: neither a recipe ({known}) nor a file")
    return path, checked(read_json(path), Recipe, path)


def _one_for_each_seed(entries: list[dict]) -> list[dict]:
    """A stage with seeds [0, 1] stands for NAME-seed0 and NAME-seed1. All first seeds come before the second ones, so
    that a recipe that is stopped early leaves whole rows to compare."""
    expanded = []
    for entry in entries:
        rest = {key: value for key, value in entry.items() if key != "seeds"}
        expanded += [(place, rest | {"name": f"{entry['name']}-seed{seed}",
                                     "settings": entry.get("settings", {}) | {"seed": seed}})
                     for place, seed in enumerate(entry["seeds"])] if "seeds" in entry else [(0, rest)]
    return [entry for _, entry in sorted(expanded, key=lambda pair: pair[0])]


def choose_stages(stages: list[Stage], only: str) -> list[Stage]:
    """The stages named in `only` (NAME,NAME,...; empty: all), their evaluation and predecessors.

    NAME is that of a stage, or of one with seeds, for all of them. Raises InputError for other names.
    """
    names = [stage.name for stage in stages]
    wanted: set[str] = set()
    for name in filter(None, only.split(",")):
        found = {stage for stage in names if stage == name or re.fullmatch(re.escape(name) + r"-seed\d+", stage)}
        if not found:
            raise InputError(f"--only {only}: no stage {name}, there are {', '.join(names)}")
        wanted |= found
    wanted = wanted or set(names)
    wanted |= {stage.name for stage in stages if stage.evaluates in wanted}
    for stage in reversed(stages):
        if stage.name in wanted:
            wanted |= set(stage.after)
    return [stage for stage in stages if stage.name in wanted]


def spread(stages: list[Stage], gpus: int) -> None:
    """Let stages that are written for several GPUs take what there is: all, where that is more than any is written for.
    What was set, by the recipe or by hand, is meant for the number that the recipe names."""
    widest = max((stage.gpus for stage in stages), default=1)
    for stage in stages:
        if stage.gpus > 1:
            stage.spread_over(gpus * stage.gpus // widest if gpus > widest else min(stage.gpus, gpus))


def command_line(arguments: list[str], gpus: int = 1) -> str:
    return f"ouroboros {shlex.join(arguments)}" + (f"  # on {gpus} GPUs" if gpus > 1 else "")


def run_recipe(stages: list[Stage], out: Path, gpus: int, per_gpu: int = 1) -> None:
    """Run all stages that are not done yet into `out`/NAME and `out`/evaluation; stop everything when one fails.

    gpus: how many of those that CUDA_VISIBLE_DEVICES leaves, 0 for the CPU; per_gpu: how many stages may run on one at
    a time. Raises InputError with the last line of the log of a stage that failed; run again to go on.
    """
    visible = visible_gpus(gpus)
    spread(stages, max(gpus, 1))
    left = [stage for stage in stages if not stage.result(out).is_file()]
    for backbone in {stage.settings.get("lpips", "off") for stage in left} - {"off"}:
        lpips_network(backbone)  # raises now what a later stage would raise after minutes of the others
    out.mkdir(parents=True, exist_ok=True)
    with termination_cleans_up(), where(out), only_writer(out) as lock:
        if lock.orphans:
            print(f"a recipe that was killed here left {len(lock.orphans)} processes running: ending them", flush=True)
            end_orphans(lock.orphans)
        _run_stages(stages, out, visible, per_gpu, lock)


def _run_stages(stages: list[Stage], out: Path, visible: list[str], per_gpu: int, lock: Lock) -> None:
    done = {stage.name for stage in stages if stage.result(out).is_file()}
    for name in done:
        print(f"{name}: done before", flush=True)
    free, running = list(range(len(visible))) * per_gpu, []  # a GPU as often as it has places
    waiting = [stage for stage in stages if stage.name not in done]
    try:
        while waiting or running:
            for stage in list(waiting):
                emptiest = sorted(set(free), key=lambda device: (-free.count(device), device))
                if set(stage.after) <= done and stage.gpus <= len(emptiest):
                    stage.devices = emptiest[:stage.gpus]
                    for device in stage.devices:
                        free.remove(device)
                    waiting.remove(stage)
                    running.append(stage)
                    _start(stage, out, [visible[device] for device in stage.devices])
                    lock.keep_children([process.pid for stage in running for process in stage.processes])
            time.sleep(0.2)
            for stage in list(running):
                codes = [process.poll() for process in stage.processes]
                log = out / f"{stage.name}.log"
                # 1 with a result: done, but some objects were left out
                codes = [0 if code == 1 and stage.result(out).is_file() else code for code in codes]
                if any(codes):
                    raise InputError(f"{stage.name} failed: {_last_line(log)}; the whole story is in {log}, the same "
                                     "command goes on from here")
                if all(code == 0 for code in codes):
                    minutes = (time.monotonic() - stage.started) / 60
                    print(f"{stage.name}: {minutes:.1f} min, {_last_line(log)}", flush=True)
                    running.remove(stage)
                    done.add(stage.name)
                    free += stage.devices
    finally:
        end(process for stage in running for process in stage.processes)


def visible_gpus(count: int) -> list[str]:
    """What CUDA calls the first `count` GPUs that this process may use; for none, one empty name: the CPU.

    Raises InputError if CUDA_VISIBLE_DEVICES, which Slurm sets as well, leaves fewer.
    """
    if not count:
        return [""]
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = [*map(str, range(count))] if given is None else [name.strip() for name in given.split(",") if name.strip()]
    if len(names) < count:
        raise InputError(f"--gpus {count}: CUDA_VISIBLE_DEVICES={given} leaves only {len(names)}")
    return names[:count]


def _start(stage: Stage, out: Path, gpus: list[str]) -> None:
    """One process a GPU; each sees its own as the only one, so that all share one compilation cache."""
    resume = ["--resume"] if not stage.evaluates and checkpoints(out / stage.name) else []
    print(f"{stage.name}: {command_line(stage.arguments(out) + resume, len(gpus))}", flush=True)
    stage.started, stage.processes, port = time.monotonic(), [], get_free_port()
    for rank, gpu in enumerate(gpus):
        environment = {"CUDA_VISIBLE_DEVICES": gpu}
        if len(gpus) > 1:
            environment |= {"RANK": str(rank), "LOCAL_RANK": "0", "WORLD_SIZE": str(len(gpus)),
                            "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        log = out / (f"{stage.name}.log" if rank == 0 else f"{stage.name}.{rank}.log")
        with open(log, "a") as file:
            stage.processes.append(start(_program(stage, out) + resume, file, **environment))


def _program(stage: Stage, out: Path) -> list[str]:
    return program(stage.arguments(out))


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").replace("\r", "\n").strip().splitlines()
    return lines[-1].strip() if lines else "no output"


if __name__ == "__main__":  # python -m ouroboros_lib.training.recipe NAME STAGE: its settings, as options of `train`
    print(" ".join(f"--set {setting}" for stage in load_recipe(sys.argv[1]) if stage.name == sys.argv[2]
                   for setting in stage.assignments()))
