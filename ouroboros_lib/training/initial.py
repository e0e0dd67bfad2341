"""Where a run starts, and the pipeline folder that it leaves behind."""

import sys
from contextlib import nullcontext
from pathlib import Path

import torch
from diffusers import ConfigMixin

from ..errors import InputError
from ..files import new_folder
from ..models.feedback import feedback_names
from ..pipeline import SETTINGS, Ouroboros3DPipeline
from ..plans import Plan
from .config import TrainingConfig

COMPONENTS = ("autoencoder", "multiview", "reconstructor")
TRAINED = {"autoencoder": ("autoencoder",), "reconstructor": ("reconstructor",), "multiview": ("multiview",),
           "joint": ("multiview", "reconstructor")}
SETTINGS_OF = {"multiview": ("coordinate_map",),  # kept with a model
               "reconstructor": ("reconstructor_sigma_min", "reconstructor_sigma_max")}


def initial_pipeline(preset_name: str, init: list[str], config: TrainingConfig,
                     device: torch.device | str | None = None) -> Ouroboros3DPipeline:
    """Random models of the preset, with those that `init` names replaced; F's encoders follow `config.feedback`.

    An F without encoders that `config.feedback` asks for gets new ones, which start at zero; SVD's F always has both,
    and zero maps stand for what is not fed back. device: where random weights are drawn, for models that take minutes
    elsewhere. Raises InputError.
    """
    sources = [(_components_of(entry), entry) for entry in init]
    # a whole folder leaves nothing random: draw no weights that are thrown away
    where = torch.device("meta") if any(names == COMPONENTS for names, _ in sources) else (
        torch.device(device) if device else nullcontext())
    with where:
        pipeline = Ouroboros3DPipeline.from_preset(preset_name, seed=config.seed)
    _check_settings(pipeline, preset_name, config)
    if config.view_attention:
        new = type(pipeline.multiview).from_config(pipeline.multiview.config, view_attention=config.view_attention)
        pipeline.register_modules(multiview=new)
    for names, entry in sources:
        _take(pipeline, names, entry)
    if config.view_attention not in ("", pipeline.multiview.config.get("view_attention", "")):
        raise InputError(f"--set view_attention={config.view_attention}: the F of --init has "
                         f"{pipeline.multiview.config.view_attention} attention; leave the setting out or start anew")
    if config.stage in ("multiview", "joint"):
        _fit_encoders(pipeline, config.feedback)
    if config.stage == "joint":
        lacking = set(feedback_names(config.feedback)) - set(pipeline.multiview.feedbacks)
        if lacking:
            raise InputError(f"feedback={config.feedback}: the F of {preset_name} has no encoder for {min(lacking)}")
        pipeline.register_to_config(coordinate_map=config.coordinate_map)
        if config.feedback not in ("both", "none"):
            pipeline.register_to_config(plan=str(Plan(feedback=config.feedback)))
    if "reconstructor" in TRAINED[config.stage]:
        knows_noise = config.stage == "joint" and config.joint
        pipeline.register_to_config(reconstructor_sigma_max=None if knows_noise else config.clean_sigma)
    return pipeline


def _components_of(entry: str) -> tuple[str, ...]:
    """What an entry of --init replaces. Raises InputError."""
    component, equals, _ = entry.partition("=")
    if equals and component not in (*COMPONENTS, "elevation"):
        raise InputError(f"--init {entry}: unknown component {component!r}, expected {', '.join(COMPONENTS)} or "
                         "elevation")
    return (component,) if equals else COMPONENTS


def _take(pipeline: Ouroboros3DPipeline, names: tuple[str, ...], entry: str) -> None:
    """Put the models that an entry of --init names into a pipeline, with their settings. Raises InputError."""
    source = Ouroboros3DPipeline.from_pretrained(entry.rpartition("=")[2])
    if type(source) is not Ouroboros3DPipeline:
        raise InputError(f"--init {entry}: is the published checkpoint, whose F knows the released code's cameras "
                         "only; start from `ouroboros convert svd` instead")
    if names == ("elevation",) and source.elevation is None:
        raise InputError(f"--init {entry}: has no network that estimates elevations")
    if names in (COMPONENTS, ("elevation",)):  # which no stage trains
        pipeline.register_modules(elevation=source.elevation)
    for name in (name for name in COMPONENTS if name in names):
        _check_fits(getattr(source, name), getattr(pipeline, name), name, entry, pipeline.image_size)
        pipeline.register_modules(**{name: getattr(source, name)})
        for setting in SETTINGS_OF.get(name, ()):
            pipeline.register_to_config(**{setting: source.config[setting]})
    if names == COMPONENTS and pipeline.image_encoder is not None:
        pipeline.register_modules(image_encoder=source.image_encoder)


def _fit_encoders(pipeline: Ouroboros3DPipeline, feedback: str) -> None:
    """Give the small F encoders for what `feedback` names and no others, and keep its weights. Raises InputError."""
    old = pipeline.multiview
    if old.config.get("feedback", feedback) == feedback:
        return
    pipeline.register_modules(multiview=type(old).from_config(old.config, feedback=feedback))
    mismatch = pipeline.multiview.load_state_dict(old.state_dict(), strict=False)
    if foreign := [key for key in mismatch.missing_keys if not key.startswith("feedback_encoders.")]:
        raise InputError(f"--init: F lacks {foreign[0]} and {len(foreign) - 1} more tensors")


def _check_settings(pipeline: Ouroboros3DPipeline, preset_name: str, config: TrainingConfig) -> None:
    """Raise InputError for settings that the preset's models do not have."""
    takes_token = getattr(pipeline.multiview, "takes_image_token", False)
    if config.stage == "autoencoder" and takes_token:
        raise InputError(f"stage=autoencoder: preset {preset_name} keeps SVD's autoencoder as it is")
    if config.stage in ("reconstructor", "joint") and (
            int(pipeline.num_views * config.orbit_supervision) + config.novel_views < 1):
        raise InputError(f"orbit_supervision={config.orbit_supervision} and novel_views={config.novel_views}: leave no "
                         f"view to compare renders with, of {pipeline.num_views} in the orbit")
    if config.view_attention and "view_attention" not in pipeline.multiview.config:
        raise InputError(f"view_attention={config.view_attention}: preset {preset_name} has SVD's layers and no choice")
    if takes_token and config.condition_dropout > 1 / 3:
        raise InputError(f"condition_dropout={config.condition_dropout}: three such shares (token, latents, both) are "
                         "more than all examples; at most 0.33")
    if config.gradient_checkpointing and not pipeline.multiview._supports_gradient_checkpointing:
        raise InputError(f"gradient_checkpointing: preset {preset_name} has no layers for it; leave it out")


def _check_fits(model, expected, name: str, entry: str, image_size: int) -> None:
    """Raise InputError unless a model of --init is one that the preset could have made."""
    if type(model) is not type(expected):
        raise InputError(f"--init {entry}: its {name} is a {type(model).__name__}, the preset has a "
                         f"{type(expected).__name__}; choose the preset it was trained with")
    size, own = (m.config.get("image_size", image_size) for m in (model, expected))
    if size != own:
        raise InputError(f"--init {entry}: its {name} is for images of {size} pixels, the preset for {own}; choose the "
                         "preset it was trained with")
    theirs, ours = (sum(weight.numel() for weight in each.parameters()) for each in (model, expected))
    if theirs > ours:  # fewer are common: an F without feedback encoders
        print(f"--init {entry}: its {name} keeps its {theirs / 1e6:.2f} million parameters; the preset's has "
              f"{ours / 1e6:.2f}", file=sys.stderr)


def save_pipeline(pipeline: Ouroboros3DPipeline, folder: Path, states: dict[str, dict] | None = None) -> None:
    """Write a pipeline in half precision as a folder, beside and moved into place; an older one is replaced.

    states: tensors of components that are not the pipeline's own, such as those gathered from several GPUs.
    """
    half = {}
    for name in COMPONENTS if pipeline.elevation is None else (*COMPONENTS, "elevation"):
        model = getattr(pipeline, name)
        # keys with an underscore say where the weights came from: a path of this machine
        config = {key: value for key, value in model.config.items() if key[0] != "_"}
        with torch.device("meta"):
            copy = _own_class(model).from_config(config)
        copy.load_state_dict((states or {}).get(name) or model.state_dict(), assign=True)
        half[name] = copy.half()
    settings = {name: pipeline.config[name] for name in SETTINGS}
    with new_folder(folder) as partial:
        Ouroboros3DPipeline(**half, scheduler=pipeline.scheduler, image_encoder=pipeline.image_encoder,
                            **settings).save_pretrained(partial)


def _own_class(model) -> type:
    """The class that a model was made with: FSDP puts one of its own before it."""
    return next(kind for kind in type(model).__mro__
                if issubclass(kind, ConfigMixin) and kind.__module__.startswith("ouroboros_lib."))
