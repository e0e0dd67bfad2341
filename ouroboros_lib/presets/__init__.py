"""Presets: the sizes of all models at one scale, one small JSON file each (tiny, small, narrow, paper)."""

import json
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch

from ..errors import InputError, needs

_FOLDER = Path(__file__).parent
COMPONENTS = ("autoencoder", "multiview", "reconstructor", "image_encoder", "scheduler")
SHIPPED_WEIGHTS = _FOLDER / "weights"


@dataclass(frozen=True)
class Preset:
    """Sizes and settings of one scale. `components` holds the JSON entry of each model, `pipeline` its
    settings."""

    name: str
    description: str
    image_size: int
    num_views: int
    components: dict[str, dict]
    pipeline: dict

    def create(self, component: str, **changes):
        """A new, randomly initialised "autoencoder", "multiview", "reconstructor" or "scheduler", or "image_encoder"
        where there is one; `changes` to its config.

        Place it inside `with torch.device("meta")` to count the parameters of models that do not fit in memory.
        """
        config = dict(self.components[component]) | changes
        name = config.pop("class", "EDMNoise")
        if name == "CLIPVisionModelWithProjection":
            with needs("paper", "the image encoder"):
                from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

            return CLIPVisionModelWithProjection(CLIPVisionConfig(**config))
        import ouroboros_lib

        return getattr(ouroboros_lib, name)(**config)

    @property
    def weights(self) -> Path | None:
        """Folder of the weights that ship with the library, or None."""
        folder = SHIPPED_WEIGHTS / self.name
        return folder if folder.is_dir() else None


def preset_names() -> list[str]:
    return sorted(path.stem for path in _FOLDER.glob("*.json"))


def load_preset(name: str) -> Preset:
    """Read a preset by name. Raises InputError that lists the names there are."""
    path = _FOLDER / f"{name}.json"
    if name not in preset_names():
        raise InputError(f"unknown preset {name!r}: expected one of {', '.join(preset_names())}")
    record = json.loads(path.read_text())
    components = {key: record[key] for key in COMPONENTS if key in record}
    return Preset(name, record["description"], record["image_size"], record["num_views"], components,
                  record.get("pipeline", {}))


def random_models(preset: Preset, seed: int = 0, device: torch.device | str | None = None,
                  dtype: torch.dtype | None = None) -> dict:
    """All components of a preset with random weights that depend on `seed` only (and on device and dtype, if given).

    device, dtype: the weights are drawn there and in this type from the start; at the paper's size a copy in float32,
    on the CPU or beside the one that is wanted, would cost 12 GB and minutes.
    """
    device, usual = None if device is None else torch.device(device), torch.get_default_dtype()
    with torch.random.fork_rng(devices=[device] if device is not None and device.type == "cuda" else []):
        torch.manual_seed(seed)
        torch.set_default_dtype(dtype or usual)
        try:
            with device or nullcontext():
                models = {name: preset.create(name) for name in preset.components}
        finally:
            torch.set_default_dtype(usual)
    for model in models.values():
        if isinstance(model, torch.nn.Module) and (device or dtype):
            torch.nn.Module.to(model, device=device, dtype=dtype)  # the few tensors that heeded neither; no others move
    return models
