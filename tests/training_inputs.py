"""Shared by the tests of training: settings of runs that take seconds, logs, what a loss reaches, several processes."""

import json
import os
import random
import socket
import subprocess
from contextlib import suppress
from pathlib import Path

import torch
import warm

import ouroboros_lib
from ouroboros_lib.presets import load_preset
from ouroboros_lib.training import TrainingConfig
from ouroboros_lib.training.data import RenderedObjects

QUICK = {"batch_size": 2, "reconstruction_batch": 1, "objects": 4, "refresh_objects": 2, "refresh_every": 2,
         "novel_views": 1, "validation_objects": 1, "log_every": 1, "checkpoint_every": 0}
NARROW = QUICK | {"batch_size": 1, "objects": 2, "workers": 0, "image_loss": "mse", "orbit_supervision": 0.125,
                  "novel_views": 0}  # one view: splatting is slow
ACCELERATE = Path(ouroboros_lib.__file__).parent / "training" / "accelerate"


def quick(**settings) -> TrainingConfig:
    return TrainingConfig(**QUICK | settings)


def quick_narrow(**settings) -> TrainingConfig:
    return TrainingConfig(**NARROW | settings)


def source(root, start=0, rank=0, world_size=1, **settings) -> RenderedObjects:
    """Of the preset narrow, ready."""
    config = quick_narrow(**{"novel_views": 4} | settings)
    objects = RenderedObjects(root, load_preset("narrow"), config, "cpu", rank, world_size)
    objects.restart(start)
    objects.fill()
    return objects


def logged(out, name="step"):
    return [json.loads(line)[name] for line in (out / "log.jsonl").read_text().splitlines()]


def timeless_log(out):
    """The log, but for the time that steps took."""
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "minutes"} for line in lines]


def leftovers(out):
    return [path for pattern in ("*.partial*", "*.old") for path in out.rglob(pattern)]


def reached(loss, module):
    """Names of the parameters that `loss` has a gradient in."""
    if not loss.requires_grad:
        return set()
    named = dict(module.named_parameters())
    gradients = torch.autograd.grad(loss, named.values(), retain_graph=True, allow_unused=True)
    return {name for name, g in zip(named, gradients, strict=True) if g is not None and g.abs().max() > 0}


def everything(module):
    return {name for name, _ in module.named_parameters()}


def blind():
    """What F learns nothing for where it sees zero maps: the weights that multiply them."""
    return {f"feedback_encoders.{name}.embed.weight" for name in ("rgb", "ccm")}


def train_command(out, *more, preset="tiny", **settings):
    words = ["train", "--preset", preset, "--out", str(out), *map(str, more)]
    return words + [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]


def free_port():
    """Below those that systems give to whoever connects, by a chance that no test seeds: nobody takes it meanwhile."""
    while True:
        port = random.SystemRandom().randrange(20_000, 30_000)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def launch(arguments, processes=1, module="ouroboros_lib", **environment):
    """Run a module in several processes that find each other; returns the lines of the first one."""
    root = str(Path(ouroboros_lib.__file__).parent.parent)
    common = {"PYTHONPATH": os.pathsep.join([root, str(Path(__file__).parent)]), "WORLD_SIZE": str(processes),
              "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "LOCAL_RANK": "0",
              "ACCELERATE_USE_CPU": "true", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    common = os.environ | common | environment
    runs = [warm.run([module, *arguments], env=common | {"RANK": str(rank)}, text=True, stdout=subprocess.PIPE,
                     stderr=subprocess.PIPE) for rank in range(processes)]
    outputs = [run.communicate() for run in runs]
    assert all(run.returncode == 0 for run in runs), "\n".join(error[-3000:] for _, error in outputs)
    return outputs[0][0].splitlines()


def fsdp_environment():
    """What accelerate makes of fsdp.yaml for the processes it starts."""
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser
    from accelerate.utils.launch import prepare_multi_gpu_env

    parser = launch_command_parser()
    args = parser.parse_args(["--config_file", str(ACCELERATE / "fsdp.yaml"), "-m", "ouroboros_lib", "train"])
    args = _validate_launch_command(args)[0]
    return {key: value for key, value in prepare_multi_gpu_env(args).items()
            if key.startswith("FSDP_") or key == "ACCELERATE_USE_FSDP"}
