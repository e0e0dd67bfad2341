"""The preset `narrow` through the whole loop: losses fall, runs resume, processes agree, settings are checked."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch.testing import assert_close

import ouroboros_lib
from ouroboros_lib import benchmark as recursion_benchmark
from ouroboros_lib.cli.main import main
from ouroboros_lib.errors import InputError
from ouroboros_lib.paper.released import ReleasedPipeline
from ouroboros_lib.pipeline import Ouroboros3DPipeline
from ouroboros_lib.training import TrainingConfig, benchmark, loop, train
from ouroboros_lib.training.fast.sharding import shard
from ouroboros_lib.training.initial import initial_pipeline, save_pipeline
from ouroboros_lib.training.loop import _Trainer, new_accelerator
from ouroboros_lib.training.recipe import load_recipe

ACCELERATE = Path(ouroboros_lib.__file__).parent / "training" / "accelerate"
QUICK = {"batch_size": 1, "reconstruction_batch": 1, "validation_objects": 1, "log_every": 1, "checkpoint_every": 0,
         "workers": 0, "image_loss": "mse", "orbit_supervision": 0.125, "novel_views": 0}  # one view: splatting is slow


def quick(**settings):
    return TrainingConfig(**QUICK | settings)


def logged(out, name):
    return [json.loads(line)[name] for line in (out / "log.jsonl").read_text().splitlines()]


@pytest.fixture(autouse=True)
def few_validation_steps(monkeypatch):
    monkeypatch.setattr("ouroboros_lib.training.validation.INFERENCE_STEPS", 1)


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """A whole pipeline folder, as `ouroboros convert svd` writes."""
    folder = tmp_path_factory.mktemp("start") / "pipeline"
    save_pipeline(Ouroboros3DPipeline.from_preset("narrow", seed=5), folder)
    return folder


# --- the loop ---


def test_training_on_a_fixed_batch_brings_the_losses_down(tmp_path):
    """Ten steps stand for the fifty of full size: a step takes a second here."""
    config = quick(objects=2, refresh_objects=2, learning_rate=2e-3, reconstructor_learning_rate=2e-3,
                   condition_dropout=0.0)
    trainer = _Trainer(new_accelerator(tmp_path, config), "narrow", tmp_path, config, [])
    trainer.source.fill()
    fixed = trainer.next_batch()
    trainer.next_batch = lambda: fixed
    losses = {"multiview": [], "reconstruction": []}
    for _ in range(10):
        torch.manual_seed(1)  # the same noise as well
        figures = trainer.train_step()
        for name, values in losses.items():
            values.append(float(figures[name]))
        trainer.step += 1
    for name, values in losses.items():
        assert torch.tensor(values).isfinite().all() and values[-1] < 0.5 * values[0], (name, values)


def command_line(out, *more, **settings):
    words = ["train", "--preset", "narrow", "--out", str(out), *map(str, more)]
    settings = QUICK | {"steps": 2, "checkpoint_every": 1} | settings
    return words + [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]


def launch(arguments, processes=1, module="ouroboros_lib", **environment):
    """Run a module in several processes that find each other; returns the lines of the first one."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    root = str(Path(ouroboros_lib.__file__).parent.parent)
    common = {"PYTHONPATH": os.pathsep.join([root, str(Path(__file__).parents[1])]), "WORLD_SIZE": str(processes),
              "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "LOCAL_RANK": "0", "ACCELERATE_USE_CPU": "true",
              "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    common = os.environ | common | environment
    runs = [subprocess.Popen([sys.executable, "-m", module, *arguments], env=common | {"RANK": str(rank)}, text=True,
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE) for rank in range(processes)]
    outputs = [run.communicate() for run in runs]
    assert all(run.returncode == 0 for run in runs), "\n".join(error[-3000:] for _, error in outputs)
    return outputs[0][0].splitlines()


@pytest.fixture(scope="module")
def run(tmp_path_factory, rendered_folder):
    """Two steps of two processes, with accumulation and everything else that the paper's recipe asks for."""
    out = tmp_path_factory.mktemp("ddp") / "run"
    lines = launch(command_line(out, "--data", rendered_folder, **FULL), 2)
    return out, json.loads(lines[-1])


FULL = {"accumulation": 2, "ema_device": "cpu", "ema_every": 1, "ema_decay": 0.5, "gradient_checkpointing": "true",
        "schedule": "constant"}


def fsdp_environment():
    """What accelerate makes of fsdp.yaml for the processes it starts."""
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser
    from accelerate.utils.launch import prepare_multi_gpu_env

    parser = launch_command_parser()
    args = parser.parse_args(["--config_file", str(ACCELERATE / "fsdp.yaml"), "-m", "ouroboros_lib", "train"])
    args = _validate_launch_command(args)[0]
    return {key: value for key, value in prepare_multi_gpu_env(args).items()
            if key.startswith("FSDP_") or key == "ACCELERATE_USE_FSDP"}


def test_two_processes_share_the_data_and_write_once(run):
    out, figures = run
    assert logged(out, "step") == [1, 2] and logged(out, "samples") == [4, 8]  # 1 object, 2 batches, 2 processes
    assert {"multiview", "reconstruction", "gradient/reconstructor", "3D 1+"} <= figures.keys()
    assert [path.name for path in sorted(out.glob("checkpoint*"))] == ["checkpoint-0000001", "checkpoint-0000002"]
    pipeline = Ouroboros3DPipeline.from_pretrained(out / "pipeline")
    assert pipeline.reconstructor.config.relative_poses and pipeline.image_encoder is not None


def test_sharded_training_is_that_of_whole_copies(tmp_path):
    """FSDP2 takes the same steps, and its checkpoint and averages are whole: resumed, it goes on the same way.

    With `tiny`: between processes on a CPU, gathering the many layers of `narrow` one by one takes minutes.
    """
    settings = FULL | {"gradient_checkpointing": "false", "objects": 2, "refresh_objects": 2, "orbit_supervision": 0.5,
                       "novel_views": 1}
    arguments = {name: [*command_line(tmp_path / name, **settings), "--preset", "tiny"] for name in ("whole", "shares")}
    whole = json.loads(launch(arguments["whole"], 2)[-1])
    shares = json.loads(launch(arguments["shares"], 2, "sharded_on_cpu", **fsdp_environment())[-1])
    names = {path.name for path in (tmp_path / "shares" / "checkpoint-0000001").iterdir()}
    assert {"pytorch_model_fsdp_0", "pytorch_model_fsdp_1", "optimizer_0", "optimizer_1"} < names
    for name, value in whole.items():
        assert shares[name] == pytest.approx(value, rel=1e-2), name
    for model in ("multiview", "reconstructor"):
        file = Path("pipeline") / model / "diffusion_pytorch_model.safetensors"
        a, b = (load_file(tmp_path / run / file) for run in ("whole", "shares"))
        assert a.keys() == b.keys()
        for key, value in a.items():
            assert_close(b[key], value, atol=1e-3, rtol=1e-2, msg=key)

    losses = logged(tmp_path / "shares", "multiview")
    shutil.rmtree(tmp_path / "shares" / "checkpoint-0000002")
    again = json.loads(launch([*arguments["shares"], "--resume"], 2, "sharded_on_cpu", **fsdp_environment())[-1])
    assert logged(tmp_path / "shares", "multiview") == pytest.approx([*losses, losses[1]], rel=1e-4)
    # rasterizing may differ in last digits from process to process, which the order of splats enlarges
    for name, value in shares.items():  # of the last step, and of the averages
        assert again[name] == pytest.approx(value, rel=2e-2), name


def test_gradients_may_travel_in_half_precision(tmp_path):
    """The same step of whole copies, but for the digits that rounding takes from each process's gradients."""
    norms, settings = {}, {"steps": 1, "objects": 2, "refresh_objects": 2, "checkpoint_every": 0, "novel_views": 1}
    for exchange in ("fp32", "bf16"):
        launch([*command_line(tmp_path / exchange, **settings, gradient_exchange=exchange), "--preset", "tiny"], 2)
        norms[exchange] = [logged(tmp_path / exchange, f"gradient/{name}") for name in ("multiview", "reconstructor")]
    norms = {exchange: [norm for [norm] in lists] for exchange, lists in norms.items()}
    assert norms["bf16"] == pytest.approx(norms["fp32"], rel=1e-2) and norms["bf16"] != norms["fp32"]


def test_gradients_exchanged_by_hand_are_those_that_hooks_exchange(tmp_path):
    """Of an F whose passes are replayed, where no hook runs: the same steps, checkpoints and averages."""
    settings = {"objects": 2, "refresh_objects": 2, "novel_views": 1, "accumulation": 2, "orbit_supervision": 0.5,
                "schedule": "constant", "warmup": 0, "learning_rate": 1e-2}  # weights move by 0.02 in two steps
    arguments = {name: [*command_line(tmp_path / name, **settings), "--preset", "tiny"] for name in ("hooks", "hand")}
    hooks = json.loads(launch(arguments["hooks"], 2)[-1])
    hand = json.loads(launch([*arguments["hand"], "--set", "cuda_graphs=true"], 2, "graphs_on_cpu")[-1])
    assert hand == pytest.approx(hooks, rel=1e-2)
    for name in ("multiview", "gradient/multiview", "gradient/reconstructor"):
        assert logged(tmp_path / "hand", name) == pytest.approx(logged(tmp_path / "hooks", name), rel=1e-2), name
    for file in ("checkpoint-0000002/model.safetensors", "pipeline/multiview/diffusion_pytorch_model.safetensors"):
        a, b = (load_file(tmp_path / run / file) for run in ("hooks", "hand"))
        assert a.keys() == b.keys()
        for key, value in a.items():
            assert_close(b[key], value, atol=1e-3, rtol=1e-2, msg=key)


def test_the_mean_of_gradients_in_several_buckets(tmp_path):
    launch([str(tmp_path)], 2, "exchange_on_cpu")
    for dtype, tolerance in ((torch.float32, 1e-6), (torch.bfloat16, 1e-2)):
        name = str(dtype).removeprefix("torch.")
        before, after = ([torch.load(tmp_path / f"{name}_{when}_{rank}.pt") for rank in range(2)]
                         for when in ("before", "after"))
        assert [gradient is None for gradient in before[0]] == [False, True, False, False]
        for one, other, *means in zip(*before, *after, strict=True):
            for mean in means:
                assert (mean is None) == (one is None)
                if one is not None:
                    assert_close(mean, (one + other) / 2, rtol=tolerance, atol=tolerance)


def test_shares_of_gradients_are_summed_in_the_precision_they_travel_in():
    model, plugin = torch.nn.Linear(1, 1), SimpleNamespace()
    model._no_split_modules = ["Linear"]
    accelerator = SimpleNamespace(state=SimpleNamespace(fsdp_plugin=plugin), prepare=lambda *given: given)
    for precision, weights in (("no", None), ("bf16", torch.bfloat16)):
        accelerator.mixed_precision = precision
        for exchange, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
            assert shard(accelerator, model, None, exchange) == (model, None)
            policy = plugin.mixed_precision_policy
            assert (policy.param_dtype, policy.reduce_dtype, policy.cast_forward_inputs) == (weights, dtype, False)


def test_a_run_goes_on_as_it_was_started(tmp_path):
    config = quick(objects=1, refresh_objects=1)
    trainer = _Trainer(new_accelerator(tmp_path, config), "narrow", tmp_path, config, [])
    (tmp_path / "checkpoint-0000001" / "pytorch_model_fsdp_0").mkdir(parents=True)
    with pytest.raises(InputError, match="checkpoint-0000001: was written with FSDP; go on as the run was started"):
        trainer.load_checkpoint(tmp_path / "checkpoint-0000001")


def test_a_resumed_run_ends_as_one_without_interruption(tmp_path, rendered_shards):
    """From shards, read by workers, with averages on the CPU: the same to the bit."""
    config = quick(steps=2, checkpoint_every=1, workers=2, ema_device="cpu", ema_every=2)
    train("narrow", tmp_path / "whole", config, data=rendered_shards)
    shutil.copytree(tmp_path / "whole", tmp_path / "stopped")
    shutil.rmtree(tmp_path / "stopped" / "checkpoint-0000002")
    train("narrow", tmp_path / "stopped", config, data=rendered_shards, resume=True)
    for name in ("model.safetensors", "model_1.safetensors"):
        whole, stopped = (load_file(tmp_path / run / "checkpoint-0000002" / name) for run in ("whole", "stopped"))
        assert all(torch.equal(whole[key], stopped[key]) for key in whole)
    losses = logged(tmp_path / "stopped", "multiview")
    assert losses[1] == losses[2] != losses[0]


def test_accumulated_batches_are_one_step_of_their_mean_gradient(tmp_path):
    """Two parts with known losses: the gradient is the mean's, and one step is taken."""
    config = quick(accumulation=2, objects=2, refresh_objects=2)
    trainer = _Trainer(new_accelerator(tmp_path, config), "narrow", tmp_path, config, [])
    weights = {name: trainer.models[name].get_parameter(key) for name, key in (
        ("multiview", "unet.conv_out.bias"), ("reconstructor", "conv.bias"))}
    seen = []
    trainer.losses = lambda part, backward: {name: (part + 1.0) * weight.sum() for name, weight in weights.items()}
    step = trainer.optimizers[0].step
    trainer.optimizers[0].step = lambda: (seen.append([weight.grad.clone() for weight in weights.values()]), step())
    before = {name: float(weight.detach().sum()) for name, weight in weights.items()}
    figures = trainer.train_step()
    assert len(seen) == 1 and all(weight.grad is None for weight in weights.values())
    for name, (gradient, weight) in zip(weights, zip(seen[0], weights.values(), strict=True), strict=True):
        norm = 1.5 * len(weight) ** 0.5
        assert float(figures[f"gradient/{name}"]) == pytest.approx(norm, rel=1e-5)  # before it is clipped to 1
        assert_close(gradient, torch.full_like(weight, 1.5 / norm), atol=1e-5, rtol=1e-4)
        assert float(figures[name]) == pytest.approx(1.5 * before[name], abs=1e-5)


def test_the_benchmark_takes_models_that_ship_no_weights(monkeypatch, capsys):
    monkeypatch.setattr(benchmark, "RUNS", 1)
    benchmark.main(["preset=narrow", "objects=1", "refresh_objects=1", *(
        f"{key}={value}" for key, value in QUICK.items() if key != "workers")])
    times = {line[:36].strip(): float(line[36:-3]) for line in capsys.readouterr().out.splitlines()[:-1]}
    assert len(times) == 14 and times["a step with feedback for all"] > times["draw a batch"] > 0


def test_two_processes_time_their_exchange_of_gradients(tmp_path):
    settings = {**QUICK, "batch_size": 2, "objects": 2, "refresh_objects": 1, "novel_views": 1}
    settings = [f"{key}={value}" for key, value in settings.items() if key != "workers"]
    path = tmp_path / "ddp.json"
    lines = launch(["preset=tiny", "runs=1", f"json={path}", *settings], 2, "tools.training_step")
    assert lines[-1].endswith("objects a second on 2 process(s)")
    [record] = json.loads(path.read_text())["records"]
    assert record["parts"][benchmark.EXCHANGE]["seconds"] > 0 and record["processes"] == 2


def test_the_recursion_is_timed_with_weights_in_half_precision(capsys):
    pipeline = recursion_benchmark.load("narrow", "cpu", torch.bfloat16)
    vae = pipeline.autoencoder.vae
    assert pipeline.multiview.dtype == vae.decoder.conv_in.weight.dtype == torch.bfloat16
    assert vae.encoder.conv_in.weight.dtype == vae.quant_conv.weight.dtype == torch.float32
    recursion_benchmark.main("narrow --steps 1 --batches 1 --modes bf16-weights --runs 1 --device cpu".split())
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["bf16-weights", "of"] * 2
    assert all(name in lines[1] for name in ("F ", "decoder ", "G ", "renders "))


# --- where a run starts, and what it refuses ---


def test_a_run_starts_from_a_whole_folder_with_its_image_encoder(start):
    source = Ouroboros3DPipeline.from_pretrained(start)
    pipeline = initial_pipeline("narrow", [str(start)], quick())
    for name in ("autoencoder", "multiview", "reconstructor", "image_encoder"):
        state = getattr(pipeline, name).state_dict()
        assert all(torch.equal(state[key], value) for key, value in getattr(source, name).state_dict().items()), name
    assert pipeline.config.reconstructor_sigma_max is None


@pytest.mark.parametrize("settings, message", [
    ({"stage": "autoencoder"}, "stage=autoencoder: preset narrow keeps SVD's autoencoder as it is"),
    ({"view_attention": "joint"}, "view_attention=joint: preset narrow has SVD's layers and no choice"),
    ({"condition_dropout": 0.4}, "condition_dropout=0.4: three such shares"),
])
def test_settings_that_svd_does_not_have(settings, message):
    with pytest.raises(InputError, match=message):
        initial_pipeline("narrow", [], quick(**settings))


def test_settings_that_only_svd_has():
    with pytest.raises(InputError, match="gradient_checkpointing: preset tiny has no layers for it"):
        initial_pipeline("tiny", [], quick(gradient_checkpointing=True, novel_views=1))


@pytest.mark.parametrize("setting, message", [
    ("accumulation=0", "accumulation=0: must be at least 1"), ("ema_device=gpu", "expected one of same, cpu"),
    ("lpips=squeeze", "expected one of off, alex, vgg"), ("image_loss=l2", "expected one of mixed, mse, l1"),
    ("schedule=linear", "expected one of cosine, constant"), ("workers=-1", "workers=-1: must not be negative"),
    ("orbit_supervision=2", "orbit_supervision=2.0: must lie between 0 and 1"),
    ("seed=-1", "seed=-1: must lie between 0 and"),
    ("learning_rate=-1", "learning_rate=-1.0: must be a positive number"),
    ("reconstructor_learning_rate=nan", "must be a positive number"), ("gradient_exchange=fp8", "expected one of fp32"),
])
def test_bad_settings(setting, message):
    with pytest.raises(InputError, match=message):
        TrainingConfig.from_settings([setting])


def test_renders_must_be_compared_with_some_view():
    with pytest.raises(InputError, match="leave no view to compare renders with, of 8 in the orbit"):
        initial_pipeline("narrow", [], quick(orbit_supervision=0.1, novel_views=0))
    with pytest.raises(InputError, match="leave no view to compare renders with, of 4 in the orbit"):
        initial_pipeline("tiny", [], quick(orbit_supervision=0.2, novel_views=0))


def test_foreign_starts_are_refused(start, tmp_path):
    small = Ouroboros3DPipeline.from_preset("tiny")
    save_pipeline(small, tmp_path / "tiny")
    with pytest.raises(InputError, match="its autoencoder is a Autoencoder, the preset has a SVDAutoencoder"):
        initial_pipeline("narrow", [str(tmp_path / "tiny")], quick())
    pipeline = Ouroboros3DPipeline.from_pretrained(start)
    ReleasedPipeline(**pipeline.components, image_size=64).save_pretrained(tmp_path / "released")
    with pytest.raises(InputError, match="is the published checkpoint, whose F knows the released code's cameras only"):
        initial_pipeline("narrow", [str(tmp_path / "released")], quick())


def test_the_paper_is_not_trained_from_nothing(tmp_path, rendered_folder, start):
    for given in ({}, {"data": rendered_folder}, {"init": [str(start)]}):
        with pytest.raises(InputError, match="--preset paper: give --data DIR, .* and --init DIR"):
            train("paper", tmp_path / "run", quick(), **given)
    assert not (tmp_path / "run").exists()


def test_data_that_is_not_there(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["ouroboros"])
    with pytest.raises(SystemExit) as leaving:
        main(command_line(tmp_path / "run", "--data", tmp_path / "missing"))
    assert leaving.value.code == 2
    assert capsys.readouterr().err == f"error: --data {tmp_path / 'missing'}: no such folder\n"
    assert not (tmp_path / "run").exists()


def test_schedules():
    assert [loop.learning_rate_factor(f, 0.1, "constant") for f in (0.0, 0.05, 0.5, 1.0)] == pytest.approx(
        [0.01, 0.51, 1.0, 1.0])


# --- files for several GPUs ---


def test_accelerate_takes_the_configurations():
    from accelerate.commands.config.config_args import load_config_from_file

    kinds = {name: load_config_from_file(str(ACCELERATE / f"{name}.yaml")) for name in ("ddp", "fsdp")}
    assert {name: config.distributed_type.value for name, config in kinds.items()} == {"ddp": "MULTI_GPU",
                                                                                       "fsdp": "FSDP"}
    assert all(config.num_processes == 8 for config in kinds.values())


def test_accelerates_plugin_understands_the_sharding(monkeypatch):
    from accelerate.utils import FullyShardedDataParallelPlugin

    environment = fsdp_environment()
    for key, value in environment.items():
        monkeypatch.setenv(key, value)
    plugin = FullyShardedDataParallelPlugin()
    assert plugin.fsdp_version == 2 and plugin.reshard_after_forward is True
    assert plugin.state_dict_type.name == "SHARDED_STATE_DICT" and not plugin.cpu_ram_efficient_loading
    for name in ("multiview", "reconstructor"):  # the layers that are gathered one at a time are there
        with torch.device("meta"):
            model = getattr(Ouroboros3DPipeline.from_preset("paper"), name)
        plugin.transformer_cls_names_to_wrap = model._no_split_modules
        plugin.set_auto_wrap_policy(model)


def test_the_slurm_example_says_what_fsdp_yaml_says():
    script = (ACCELERATE / "slurm.sh").read_text()
    assert subprocess.run(["bash", "-n", str(ACCELERATE / "slurm.sh")]).returncode == 0
    exported = dict(word.split("=", 1) for line in script.splitlines() if line.startswith("export ")
                    for word in line.split()[1:])
    stated = yaml.safe_load((ACCELERATE / "fsdp.yaml").read_text())["fsdp_config"]
    expected = {key.upper(): str(value).lower() if isinstance(value, bool) else str(value)
                for key, value in stated.items()}
    assert exported == expected | {"ACCELERATE_USE_FSDP": "true"}
    for word in ("torchrun", "--nnodes", "--rdzv-endpoint", "--requeue", "--resume", "--preset paper"):
        assert word in script
    settings = [stage.assignments() for stage in load_recipe("paper", start=str(ACCELERATE), data="renders")][0]
    config = TrainingConfig.from_settings([*settings, *re.findall("--set ([a-z_]+=[a-z]+)", script)])
    assert config.compile and not config.cuda_graphs  # replayed passes cannot gather shares of weights
