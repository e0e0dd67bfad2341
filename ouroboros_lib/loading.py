"""Loading pipelines: names of presets, checks that files are whole, types and memory layout of weights."""

import re
from collections.abc import Mapping
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, get_type_hints

import torch
from diffusers import DiffusionPipeline
from safetensors import safe_open

from .errors import InputError, needs
from .files import one_line, read_json
from .noise import EDMNoise
from .plans import PLANS
from .presets import load_preset, preset_names
from .values import checked

HUB_OPTIONS = {"revision", "cache_dir", "token", "local_files_only", "force_download", "proxies"}
HALF_PRECISION = {"bf16": torch.bfloat16, "fp16": torch.float16}
KNOWN_CLASSES = {("transformers", "CLIPVisionModelWithProjection")}  # what a pipeline is made of beside our own
MOST_LAYERS, MOST_WIDTH = 1000, 2**16  # of models in a pipeline's folder
FEW_LAYERS, NARROW = 8, 256  # such models fit into any memory
RANDOM_PRESETS = ("tiny", "narrow")  # for tests: `from_pretrained` gives random weights
FIRST_EDITION = ('is of the first edition; in its model_index.json replace "feedback_options" by "plan": "paper", or '
                 f"another of {', '.join(PLANS)}, and ouroboros_lib.models.svd, .svd_autoencoder, .lgm and "
                 "ouroboros_lib.released by ouroboros_lib.paper.svd, .svd_autoencoder, .lgm and .released")


def load(cls: type[DiffusionPipeline], name: str | Path, **options) -> DiffusionPipeline:
    """What `cls.from_pretrained` gives for a preset with weights, a folder or a hub id; options: of diffusers.

    Raises InputError when there is no such thing, when its files are damaged or foreign, or for half precision that
    `check_components` refuses.
    """
    folder = _find(name, options)
    try:
        where = {key: options[key] for key in HUB_OPTIONS & options.keys()}
        index = cls.load_config(str(folder), **where)
        if "feedback_options" in index:
            raise InputError(FIRST_EDITION)
        _check_classes(index, folder)
        _check_sizes(folder)
        options.setdefault("use_safetensors", True)  # other files of weights can hold code
        kind = _import_classes(index, cls) or cls
        pipeline = DiffusionPipeline.from_pretrained.__func__(kind, str(folder), **options)
        _check_complete({name: model for name, model in pipeline.components.items() if name not in options})
        if isinstance(pipeline, cls):
            check_components(pipeline)
    except Exception as error:  # diffusers and models raise many kinds for files that they cannot use
        if isinstance(error, InputError):
            raise InputError(f"{name}: {error}") from error
        if not folder.exists():
            raise InputError(f"{name}: no such folder, and not to be had from the hub either "
                             f"({type(error).__name__}); check the name and the network") from error
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(f"{name}: cannot be loaded as Ouroboros3D weights ({reason}); "
                         "is a file damaged, missing or of another model?") from error
    if not isinstance(pipeline, cls):
        raise InputError(f"{name}: holds a {type(pipeline).__name__}, not an {cls.__name__}")
    for model in pipeline.components.values():
        if isinstance(model, torch.nn.Module):
            if not options.keys() & {"torch_dtype", "dtype"} and any(
                    value.dtype != torch.float32 for value in model.parameters()):
                torch.nn.Module.float(model)  # files hold half precision, CPUs want float32
            channels_last(model.eval() if model.training else model)
    return pipeline


def _find(name: str | Path, options: dict) -> Path:
    """The folder of a preset's weights, a folder, or a hub id as a path. Raises InputError."""
    if str(name) in preset_names():
        folder = load_preset(str(name)).weights
        if folder is None:
            raise InputError(f"preset {str(name)!r} ships no weights: give a folder or a hub id of trained weights")
        return folder
    folder = Path(name)
    if folder.exists():
        if not (folder / "model_index.json").is_file():
            raise InputError(f"{name}: no model_index.json in it, so not a pipeline folder; "
                             "give the folder that `ouroboros train` or `save_pretrained` wrote")
        if odd := next((path for path in folder.rglob("*") if not (path.is_file() or path.is_dir())), None):
            raise InputError(f"{odd}: is neither a file nor a folder (a pipe, a device, a link that leads nowhere); "
                             "remove it")
        return folder
    if not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", str(name)):
        raise InputError(f"{name}: no such folder" if folder.name != str(name) or "\\" in str(name) else
                         f"{name}: neither a preset ({', '.join(preset_names())}) nor a folder nor a hub id "
                         "of the form owner/name")
    if folder.parent.is_dir():
        raise InputError(f"{name}: no such folder (and {folder.parent} is one, so this is no hub id)")
    _check_hub(str(name), options)
    return folder


def _check_hub(name: str, options: dict) -> None:
    """Raise InputError if the hub would have to be asked and does not answer: it would be asked for a minute."""
    from huggingface_hub import constants, get_session, try_to_load_from_cache

    where = {key: options[key] for key in ("cache_dir", "revision") if key in options}
    if (options.get("local_files_only") or constants.HF_HUB_OFFLINE
            or isinstance(try_to_load_from_cache(name, "model_index.json", **where), str)):
        return
    try:
        get_session().head(constants.ENDPOINT, timeout=10)
    except Exception as error:  # of the library for HTTP, which depends on the hub's version
        raise InputError(f"{name}: no such folder, and the hub cannot be asked for it ({type(error).__name__}); check "
                         "the name and the network") from None


def _check_classes(index: dict, folder: Path) -> None:
    """Raise InputError unless a model_index.json names known classes only: diffusers imports whatever it is told to,
    files that lie in the folder included."""
    own = import_module("ouroboros_lib").__all__
    if index["_class_name"] not in own:
        raise InputError(f"model_index.json is of {_shown(index['_class_name'])}, no pipeline of this library")
    for name, entry in index.items():
        if not isinstance(entry, (list, tuple)) or not any(isinstance(part, str) for part in entry):
            continue  # a setting
        package, kind = entry if len(entry) == 2 else ("", "")
        if not (isinstance(package, str) and re.fullmatch(r"ouroboros_lib(\.\w+)*", package) and kind in own
                or tuple(entry) in KNOWN_CLASSES):
            raise InputError(f"model_index.json has {_shown(name)} made by {_shown(entry)}, which is neither a class "
                             "of this library nor one that it takes from others; nothing was imported")
        if (folder / name / f"{package}.py").exists():
            raise InputError(f"{name}/{package}.py would be run in place of {package}; remove it")


def _check_sizes(folder: Path) -> None:
    """Raise InputError for sizes of models that their files of weights cannot fill: models are made before those are
    looked at."""
    for path in sorted(folder.glob("*/config.json")):
        config, fits = read_json(path), True
        if not isinstance(config, dict):
            raise InputError(f"{path}: expected the settings of a model")
        for key, value in config.items():
            layers = re.search("depth|layers", key)
            numbers = value if isinstance(value, list) else [value]
            largest = max((number for number in numbers if isinstance(number, int)), default=0)
            most = MOST_LAYERS if layers else MOST_WIDTH
            if len(numbers) > MOST_LAYERS or largest > most:
                raise InputError(f"{path}: {key} is {one_line(value, 40)}: at most {most} can be read")
            fits &= len(numbers) <= FEW_LAYERS and largest <= (FEW_LAYERS if layers else NARROW)
        if not fits:
            _check_filled(path, config)


def _check_filled(path: Path, config: dict) -> None:
    """Raise InputError if a model of the library, made without memory, has more numbers than its files have bytes."""
    name, library = config.get("_class_name"), import_module("ouroboros_lib")
    if name not in library.__all__:  # others are made without memory anyway
        return
    with torch.device("meta"):
        model = getattr(library, str(name)).from_config(config)
    numbers = sum(value.numel() for value in model.state_dict().values())
    held = sum(file.stat().st_size for file in path.parent.glob("*.safetensors"))
    if numbers > held:
        raise InputError(f"{path}: a model of {numbers} numbers, but the files of weights beside it have {held} bytes")


def _shown(value: object) -> str:
    return repr(value)[:80]


def _import_classes(index: dict, base: type[DiffusionPipeline]) -> type[DiffusionPipeline] | None:
    """Import the library's classes that a model_index.json names: diffusers takes only those imported already.

    Returns the class of the pipeline itself if it is one of the library's.
    """
    library = import_module("ouroboros_lib")
    entries = [(str(entry[0]).split(".")[0], entry[1]) for entry in index.values()
               if isinstance(entry, (list, tuple)) and len(entry) == 2]
    ours = {name for package, name in entries if package == "ouroboros_lib"}
    for name in {index["_class_name"], *ours} & set(library.__all__):
        getattr(library, name)
    if any(package == "transformers" for package, _ in entries):
        with needs("paper", "the image encoder"):
            import_module("transformers")
    kind = getattr(library, index["_class_name"], None)
    return kind if isinstance(kind, type) and issubclass(kind, base) else None


def _check_complete(components: dict) -> None:
    """Raise ValueError unless the files of each model hold its tensors and no others, of which diffusers only warns,
    and all are finite."""
    for name, model in components.items():
        if isinstance(model, torch.nn.Module):
            config: Any = model.config
            files, state = Path(config._name_or_path).glob("*.safetensors"), model.state_dict()
            stored = {key for file in files for key in safe_open(file, "pt").keys()}
            if odd := sorted(stored ^ state.keys()):
                raise ValueError(f"{name} and its file differ in {odd[0]} and {len(odd) - 1} more tensors")
            _check_numbers(state, name)
            _check_settings(model, name)


def _check_settings(model: Any, name: str) -> None:
    """Raise InputError unless the settings of one of the library's models are of the types that it takes."""
    for key, kind in _settings_of(model.__class__).items():
        checked(model.config[key], kind, f"{name}: {key}")


@cache
def _settings_of(kind: Any) -> dict[str, Any]:
    """The types of the settings of one of the library's models; nothing for others'."""
    return get_type_hints(kind.__init__) if kind.__module__.startswith("ouroboros_lib.") else {}


def _check_numbers(state: Mapping[str, torch.Tensor], name: str) -> None:
    """Raise InputError for weights that are not finite."""
    tensors = [value for value in state.values() if value.is_floating_point() and not value.is_meta]
    sums = torch.stack([value.sum().float() for value in tensors]).isfinite()  # sooner than to look at each number
    if not sums.all() and not all(value.isfinite().all() for value in tensors):  # else a sum was too large
        key = next(key for key, value in state.items() if not value.isfinite().all())
        raise InputError(f"{name}: not numbers in {key}; is its file damaged, or did its training diverge?")


def check_components(pipeline: DiffusionPipeline) -> None:
    """Raise InputError for a scheduler of another kind, for models of other sizes of pictures, and for half precision
    weights that cannot be run."""
    if not isinstance(pipeline.scheduler, EDMNoise):
        raise InputError(f"the scheduler is of class {type(pipeline.scheduler).__name__}: the recursion steps with "
                         "EDMNoise only; EDMNoise.from_config(pipe.scheduler.config, eta=0.0) changes its settings")
    for name in ("multiview", "reconstructor"):
        model, size = getattr(pipeline, name), pipeline.config.image_size
        own = model.config.image_size if type(model).__module__.startswith("ouroboros_lib.models.") else size
        if own != size:  # the paper's G sees smaller pictures than F
            raise InputError(f"the {name} is made for pictures of {own} pixels a side, the pipeline for {size}")
    if pipeline.multiview.dtype in HALF_PRECISION.values():
        _check_half_weights(pipeline)


def _check_half_weights(pipeline: DiffusionPipeline) -> None:
    """Raise InputError unless these models run with weights in half precision."""
    if not takes_half_weights(pipeline):
        raise InputError("weights in half precision are for the paper's models; load small ones without torch_dtype "
                         "and run them in `with torch.autocast(device, torch.bfloat16):`, or generate --precision bf16")


def convert_weights(pipeline: DiffusionPipeline, dtype: torch.dtype) -> None:
    """Weights to another type, in place; those that must stay in single precision (SVD's encoder) are not touched.

    For the paper's models, which take inputs of any type and give single precision back. Random noise, noise levels,
    the solver's steps, guidance, Gaussians and splatting are in single precision always. Raises InputError for others.
    """
    if dtype != torch.float32:
        _check_half_weights(pipeline)
    for model in pipeline.components.values():
        if isinstance(model, torch.nn.Module):
            convert_model(model, dtype)


def takes_half_weights(pipeline: DiffusionPipeline) -> bool:
    """Whether these are the paper's models; converting the few weights of small ones would gain nothing."""
    return getattr(pipeline.multiview, "takes_image_token", False)


def convert_model(model: torch.nn.Module, dtype: torch.dtype) -> torch.nn.Module:
    """One model of `convert_weights`."""
    exact = {part for name, module in model.named_modules() for part in module.modules()
             if name.split(".")[-1] in (getattr(model, "_keep_in_fp32_modules", None) or ())}

    def convert(module: torch.nn.Module, wanted: torch.dtype) -> None:
        module._apply(lambda tensor: tensor.to(wanted) if tensor.is_floating_point() else tensor, recurse=False)

    for module in model.modules():
        convert(module, torch.float32 if module in exact else dtype)
    return model


def channels_last(model: torch.nn.Module) -> None:
    """Lay out the weights of 2D and 3D convolutions as the fast kernels want them, in place."""
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    for parameter in model.parameters():
        if parameter.ndim in formats:
            parameter.data = parameter.data.to(memory_format=formats[parameter.ndim])
