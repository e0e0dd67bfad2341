"""Files for several GPUs, and what sharding them asks of accelerate."""

import re
import subprocess
from types import SimpleNamespace

import torch
import yaml
from training_inputs import ACCELERATE, fsdp_environment

from ouroboros_lib.pipeline import Ouroboros3DPipeline
from ouroboros_lib.training import TrainingConfig
from ouroboros_lib.training.fast.sharding import shard
from ouroboros_lib.training.recipe import load_recipe


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
