"""Pipelines from presets and folders: what is saved comes back, what is old or damaged is named."""

import json
import math
import shutil
import subprocess
import sys

import pytest
import torch
from comparing import gap, seeded
from diffusers import DiffusionPipeline, EulerDiscreteScheduler
from safetensors.torch import load_file, save_file

from ouroboros_lib.errors import InputError
from ouroboros_lib.models.elevation import ElevationEstimator
from ouroboros_lib.pipeline import Ouroboros3DPipeline
from ouroboros_lib.presets import load_preset


@pytest.fixture(scope="module")
def folder(_tiny, tmp_path_factory):
    path = tmp_path_factory.mktemp("saved") / "pipeline"
    _tiny.save_pretrained(path)
    return path


def test_a_saved_folder_loads_in_a_fresh_process(tiny, picture, folder, tmp_path):
    """Nothing but the pipeline's module is imported there; and whatever is, the published checkpoint's code is not."""
    torch.save(picture, tmp_path / "picture.pt")
    program = ("import sys, torch\n"
               "from ouroboros_lib.pipeline import Ouroboros3DPipeline\n"
               "pipeline = Ouroboros3DPipeline.from_pretrained(sys.argv[1])\n"
               "out = pipeline(torch.load(sys.argv[2]), num_inference_steps=2,"
               " generator=torch.Generator().manual_seed(4))\n"
               "torch.save((out.views, out.gaussians.means, dict(pipeline.config)), sys.argv[3])\n"
               "import ouroboros_lib.cli.main, ouroboros_lib.training, ouroboros_lib.paper.svd\n"
               "sys.exit('ouroboros_lib.paper.released' in sys.modules)")
    subprocess.run([sys.executable, "-c", program, folder, tmp_path / "picture.pt", tmp_path / "out.pt"], check=True,
                   capture_output=True)
    views, means, config = torch.load(tmp_path / "out.pt", weights_only=False)
    here = tiny(picture, num_inference_steps=2, generator=seeded(4))
    assert gap(views, here.views) < 1e-4 and gap(means, here.gaussians.means) < 1e-4
    assert (config["image_size"], config["num_views"]) == (tiny.image_size, tiny.num_views)


def test_settings_and_half_precision_weights_come_back(tiny, tmp_path):
    tiny.register_to_config(reconstructor_sigma_min=2.5, coordinate_map="released")
    for name in ("autoencoder", "multiview", "reconstructor"):
        getattr(tiny, name).half()
    tiny.save_pretrained(tmp_path / "half")
    loaded = Ouroboros3DPipeline.from_pretrained(tmp_path / "half")
    assert loaded.config.coordinate_map == "released"
    assert loaded.config.reconstructor_sigma_min == 2.5 and loaded.multiview.dtype == torch.float32
    assert not loaded.multiview.training
    state = loaded.multiview.state_dict()
    assert all(torch.equal(state[key], value.float()) for key, value in tiny.multiview.state_dict().items())


def truncate(folder):
    weights = folder / "multiview" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])


def empty(folder):
    (folder / "reconstructor" / "diffusion_pytorch_model.safetensors").write_bytes(b"")


def remove(folder):
    (folder / "autoencoder" / "diffusion_pytorch_model.safetensors").unlink()


def other_shapes(folder):
    config = folder / "multiview" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"channels": [48, 64]}))


def other_names(folder):
    shutil.copy(folder / "autoencoder" / "diffusion_pytorch_model.safetensors", folder / "reconstructor")


def surplus_layers(folder):
    config = folder / "multiview" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"depth": 3}))


def garbage_config(folder):
    (folder / "reconstructor" / "config.json").write_text("{ not JSON")


def garbage_index(folder):
    (folder / "model_index.json").write_text("\x00\x01 neither")


def list_as_index(folder):
    (folder / "model_index.json").write_text("[1, 2]")


def foreign_pipeline(folder):
    index = folder / "model_index.json"
    index.write_text(json.dumps({"_class_name": "DDPMPipeline", "unet": ["diffusers", "UNet2DModel"],
                                 "scheduler": ["diffusers", "DDPMScheduler"]}))


def not_finite(folder):
    path = folder / "reconstructor" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    tensors[max(tensors, key=lambda name: tensors[name].numel())].view(-1)[-1] = torch.nan
    save_file(tensors, path, {"format": "pt"})


def endless_setting(folder):
    index = folder / "model_index.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | {"reconstructor_sigma_max": math.inf}))


def no_noise(folder):
    (config,) = folder.glob("scheduler/*.json")
    config.write_text(json.dumps(json.loads(config.read_text()) | {"sigma_min": math.nan}))


def not_a_size(folder):
    index = folder / "model_index.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | {"image_size": "32"}))


def huge_size(folder):
    config = folder / "multiview" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"image_size": 1_000_000}))


def size_in_words(folder):
    config = folder / "multiview" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"image_size": "joint"}))


def many_channels(folder):
    config = folder / "reconstructor" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"channels": [32, 48, 64] * 3}))


def deep_index(folder):
    (folder / "model_index.json").write_text("[" * 100_000)


def no_index(folder):
    (folder / "model_index.json").unlink()


DAMAGE = [truncate, empty, remove, other_shapes, other_names, surplus_layers, garbage_config, garbage_index,
          list_as_index, foreign_pipeline, no_index, not_finite, endless_setting, no_noise, not_a_size,
          deep_index, huge_size, size_in_words, many_channels]


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda function: function.__name__)
def test_damaged_or_foreign_weights(folder, tmp_path, damage):
    copy = tmp_path / "weights"
    shutil.copytree(folder, copy)
    damage(copy)
    with pytest.raises(InputError) as caught:
        Ouroboros3DPipeline.from_pretrained(copy)
    message = str(caught.value)
    assert message.startswith(f"{copy}: ") and "\n" not in message


MARKER = "import pathlib\npathlib.Path({path!r}).touch()\nclass Autoencoder: pass\n"
FOREIGN = {
    "a module in the folder": {"autoencoder": ["evil", "Autoencoder"]},
    "a module on the path": {"autoencoder": ["evil_module", "Autoencoder"]},
    "of the standard library": {"autoencoder": ["os", "system"]},
    "another of diffusers": {"scheduler": ["diffusers", "DDPMScheduler"]},
    "another of transformers": {"image_encoder": ["transformers", "AutoModel"]},
    "no class": {"autoencoder": ["ouroboros_lib.models.autoencoder", "torch"]},
    "too many": {"autoencoder": ["ouroboros_lib", "Autoencoder", "x"]},
    "a name that only begins so": {"autoencoder": ["ouroboros_library", "Autoencoder"]},
    "code as pipeline": {"_class_name": ["pipeline", "Ouroboros3DPipeline"]},
    "surplus component": {"extra": ["evil_module", "Autoencoder"]},
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_classes_are_known_before_anything_is_imported(folder, tmp_path, monkeypatch, kind):
    copy, ran = tmp_path / "weights", tmp_path / "ran"
    shutil.copytree(folder, copy)
    monkeypatch.syspath_prepend(tmp_path)
    for place in (copy / "autoencoder" / "evil.py", tmp_path / "evil_module.py", copy / "pipeline.py",
                  tmp_path / "ouroboros_library.py"):
        place.write_text(MARKER.format(path=str(ran)))
    index = json.loads((copy / "model_index.json").read_text())
    (copy / "model_index.json").write_text(json.dumps(index | FOREIGN[kind]))
    before = set(sys.modules)
    with pytest.raises(InputError, match="model_index.json (is of|has)") as caught:
        Ouroboros3DPipeline.from_pretrained(copy)
    assert str(caught.value).startswith(f"{copy}: ") and "\n" not in str(caught.value)
    assert not ran.exists() and not {name for name in set(sys.modules) - before if "evil" in name}


def test_a_file_that_stands_in_for_a_module_is_refused(folder, tmp_path):
    copy = tmp_path / "weights"
    shutil.copytree(folder, copy)
    (copy / "autoencoder" / "ouroboros_lib.models.autoencoder.py").write_text(MARKER.format(path=str(tmp_path / "ran")))
    with pytest.raises(InputError, match="would be run in place of ouroboros_lib.models.autoencoder; remove it"):
        Ouroboros3DPipeline.from_pretrained(copy)
    assert not (tmp_path / "ran").exists()


def test_weights_are_read_from_safetensors_alone(folder, tmp_path):
    copy = tmp_path / "weights"
    shutil.copytree(folder, copy)
    path = copy / "multiview" / "diffusion_pytorch_model.safetensors"
    torch.save(load_file(path), path.with_suffix(".bin"))
    path.unlink()
    with pytest.raises(InputError, match="cannot be loaded"):
        Ouroboros3DPipeline.from_pretrained(copy)


def test_names_that_are_nothing(tmp_path, monkeypatch):
    with pytest.raises(InputError, match="neither a preset .* nor a folder nor a hub id"):
        Ouroboros3DPipeline.from_pretrained("smal")
    monkeypatch.setattr("huggingface_hub.get_session", lambda: pytest.fail("the hub was asked"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "outputs").mkdir()
    for name in (tmp_path / "not" / "there", "./missing", "../missing", "a\\b", "outputs/missing"):
        with pytest.raises(InputError, match="no such folder"):
            Ouroboros3DPipeline.from_pretrained(name)
    with pytest.raises(InputError, match="unknown preset"):
        Ouroboros3DPipeline.from_preset("huge")


def test_a_hub_that_does_not_answer_is_asked_once(monkeypatch, capfd):
    from types import SimpleNamespace

    asked = []

    def head(url, timeout):
        asked.append(url)
        raise ConnectionError("no network")
    monkeypatch.setattr("huggingface_hub.get_session", lambda: SimpleNamespace(head=head))
    with pytest.raises(InputError, match="owner/name: no such folder, and the hub cannot be asked.*ConnectionError"):
        Ouroboros3DPipeline.from_pretrained("owner/name")
    assert len(asked) == 1 and capfd.readouterr() == ("", "")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_weights_of_small_models_are_refused_with_what_works(tiny, folder, picture, dtype):
    for refused in (lambda: Ouroboros3DPipeline.from_pretrained(folder, torch_dtype=dtype),
                    lambda: Ouroboros3DPipeline.from_pretrained("tiny", torch_dtype=dtype),
                    lambda: tiny.to(dtype)(picture)):
        with pytest.raises(InputError, match="with torch.autocast.device, torch.bfloat16.:"):
            refused()
    assert Ouroboros3DPipeline.from_pretrained("narrow", torch_dtype=dtype).multiview.dtype == dtype


def test_schedulers_of_another_kind_are_refused_by_name(tiny, folder, picture):
    tiny.scheduler = EulerDiscreteScheduler()
    for refused in (lambda: tiny(picture),
                    lambda: Ouroboros3DPipeline.from_pretrained(folder, scheduler=EulerDiscreteScheduler())):
        with pytest.raises(InputError, match="the scheduler is of class EulerDiscreteScheduler: .* EDMNoise only"):
            refused()


def test_diffusers_own_loader_finds_the_class(tiny, folder, picture, monkeypatch, tmp_path):
    monkeypatch.setattr("diffusers.utils.dynamic_modules_utils.HF_MODULES_CACHE", str(tmp_path))
    loaded = DiffusionPipeline.from_pretrained(folder, custom_pipeline=str(folder), trust_remote_code=True)
    assert type(loaded) is Ouroboros3DPipeline and not loaded.multiview.training
    loaded.set_progress_bar_config(disable=True)
    here, there = (pipe(picture, num_inference_steps=1, generator=seeded()) for pipe in (tiny, loaded))
    assert gap(here.views, there.views) < 1e-5
    tiny.register_modules(elevation=ElevationEstimator())  # as the shipped weights have one
    tiny.save_pretrained(tmp_path / "whole")
    shipped = load_preset("small").weights / "pipeline.py"
    assert shipped.read_text() == (tmp_path / "whole" / "pipeline.py").read_text()


def test_tiny_is_always_the_same():
    a, b = (Ouroboros3DPipeline.from_pretrained("tiny") for _ in range(2))
    assert all(torch.equal(x, y) for x, y in zip(a.reconstructor.parameters(), b.reconstructor.parameters(),
                                                 strict=True))


def test_a_folder_of_the_first_edition_is_refused_with_what_to_write(folder, tmp_path):
    """And loads when that is done."""
    shutil.copytree(folder, tmp_path / "old")
    index = tmp_path / "old" / "model_index.json"
    record = json.loads(index.read_text())
    index.write_text(json.dumps({key: value for key, value in record.items() if key != "plan"}
                                | {"feedback_options": {"feedback_every": 3}}))
    with pytest.raises(InputError, match=r'replace "feedback_options" by "plan": "paper"') as caught:
        Ouroboros3DPipeline.from_pretrained(tmp_path / "old")
    assert str(caught.value).startswith(f"{tmp_path / 'old'}: ") and "\n" not in str(caught.value)
    index.write_text(index.read_text().replace('"feedback_options": {"feedback_every": 3}', '"plan": "paper,every=3"'))
    assert Ouroboros3DPipeline.from_pretrained(tmp_path / "old").config.plan == "paper,every=3"
