"""Presets: the sizes of all models at one scale, one small JSON file each (tiny, small, paper)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch

from ..errors import InputError

_FOLDER = Path(__file__).parent
SHIPPED_WEIGHTS = Path(__file__).parent.parent / "weights"


@dataclass(frozen=True)
class Preset:
    """Sizes and settings of one scale. `components` holds the JSON entry of each model."""

    name: str
    description: str
    image_size: int
    num_views: int
    components: dict[str, dict]

    def create(self, component: str, **changes):
        """A new, randomly initialised "autoencoder", "multiview", "reconstructor" or "noise"; `changes` to its config.

        Place it inside `with torch.device("meta")` to count the parameters of models that do not fit in memory.
        """
        config = dict(self.components[component]) | changes
        name = config.pop("class", "EDMNoise")
        import diffusers

        import ouroboros_lib

        library = ouroboros_lib if name in ouroboros_lib.__all__ else diffusers
        return getattr(library, name)(**config)

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
    components = {key: record[key] for key in ("autoencoder", "multiview", "reconstructor", "noise")}
    return Preset(name, record["description"], record["image_size"], record["num_views"], components)


def random_models(preset: Preset, seed: int = 0) -> dict:
    """All components of a preset with random weights that depend on `seed` only."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return {name: preset.create(name) for name in preset.components}
