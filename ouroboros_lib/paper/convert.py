"""Published weights into one folder that `Ouroboros3DPipeline.from_pretrained` takes.

Names and shapes of all tensors are known from the preset; sizes are not guessed from files. The tensors are mapped
from the files and written in shards, and keep their precision. Measured with files of full size in half precision:
`released` in 24 s and 0.6 GiB of memory besides the mapped pages, `svd` with LGM in 26 s and 3.1 GiB.
"""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from ..errors import InputError
from ..files import check_writable, new_folder, read_json
from ..models.image_token import CLIP_MEAN, CLIP_STD
from ..noise import EDMNoise
from ..pipeline import Ouroboros3DPipeline
from ..presets import Preset, load_preset
from ..values import checked
from .lgm import LGMReconstructor
from .released import ReleasedMultiviewUNet, ReleasedPipeline, ReleasedReconstructor
from .tensor_files import load_exactly, read_tensors

SHARD = "2GB"
SVD_PATTERNS = [f"{part}/{file}" for part in ("vae", "image_encoder", "scheduler", "feature_extractor", "unet")
                for file in ("*.json", "*model.safetensors", "*model-*.safetensors")]  # whole, or in shards
RELEASED_FILES = {"multiview": "mv_model_unet.pth", "reconstructor": "recon_model.pth"}


def convert_svd(svd: str, out: Path, lgm: str | None = None, preset: str = "paper") -> dict[str, str]:
    """SVD image-to-video, and LGM if given, as the start of training: the paper's F and G before it.

    svd: a folder in diffusers' layout, or a hub id. lgm: LGM's safetensors, a path or `owner/name/FILE` of the hub.
    What SVD and LGM lack (cameras, feedback, noise level of G) is fresh, and so is all of G without `lgm`.
    Returns what each component was made of. Raises InputError.
    """
    scale = _paper_like(preset)
    _check_target(out)
    folder = fetch(svd, SVD_PATTERNS)
    components, sources = _svd_components(folder, scale)
    multiview, file = _on_meta(scale, "multiview"), _weights(folder / "unet")
    _check_config(folder / "unet", {key: multiview.config[key] for key in (
        "block_out_channels", "num_attention_heads", "cross_attention_dim", "layers_per_block")})
    _fresh(multiview.add_cameras_and_feedback)
    load_exactly(multiview, read_tensors(file), file, "unet.",
                 [name for name in multiview.state_dict() if not name.startswith("unet.")])
    sources["multiview"] = f"{file}; cameras and feedback fresh"
    if lgm is None:
        reconstructor = _fresh(lambda: scale.create("reconstructor"))
        sources["reconstructor"] = "fresh weights; --lgm takes LGM's"
    else:
        reconstructor, sources["reconstructor"] = _lgm(lgm, scale.components["reconstructor"])
    components |= {"multiview": multiview, "reconstructor": reconstructor}
    _write(out, Ouroboros3DPipeline(**components, image_size=scale.image_size, num_views=scale.num_views,
                                    **scale.pipeline))
    return sources


def convert_released(source: str, svd: str, out: Path, preset: str = "paper") -> dict[str, str]:
    """The published checkpoint, with autoencoder and image encoder of SVD, to run in `released` mode.

    source: a folder or hub id that holds `mv_model_unet.pth` and `recon_model.pth`, at any depth. Raises InputError.
    """
    scale = _paper_like(preset)
    _check_target(out)
    folder = fetch(source, [f"*{name}" for name in RELEASED_FILES.values()])
    files = {name: _find(folder, file) for name, file in RELEASED_FILES.items()}
    components, sources = _svd_components(fetch(svd, [p for p in SVD_PATTERNS if not p.startswith("unet")]), scale)
    for name, kind in (("multiview", ReleasedMultiviewUNet), ("reconstructor", ReleasedReconstructor)):
        with torch.device("meta"):
            components[name] = kind(**_sizes(scale.components[name]))
        load_exactly(components[name], read_tensors(files[name]), files[name])
        sources[name] = str(files[name])
    _write(out, ReleasedPipeline(**components, image_size=scale.image_size, num_views=scale.num_views,
                                 coordinate_map="released", **scale.pipeline))
    return sources


def fetch(name: str, patterns: list[str]) -> Path:
    """A path as it is; `owner/name` of the hub as a folder with the files that match, `owner/name/FILE` as one file.

    A folder of the hub's cache, `models--owner--name`, is followed to its snapshot. Raises InputError when it is
    neither here nor there.
    """
    from huggingface_hub import hf_hub_download, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    path = Path(name).expanduser()
    if path.is_dir() and path.name.startswith("models--"):
        try:
            return Path(snapshot_download(path.name.removeprefix("models--").replace("--", "/", 1),
                                          cache_dir=path.parent, local_files_only=True))
        except (OSError, ValueError) as error:
            raise InputError(f"{path}: a folder of the hub's cache without a whole snapshot "
                             f"({type(error).__name__}); give one of its snapshots/ folders") from None
    if path.exists():
        return path
    parts = name.split("/")
    if len(parts) < 2 or not all(parts) or name[0] in "./~":
        raise InputError(f"{name}: no such file or folder, and not a hub id of the form owner/name")
    try:
        if len(parts) > 2:
            return Path(hf_hub_download("/".join(parts[:2]), "/".join(parts[2:])))
        return Path(snapshot_download(name, allow_patterns=patterns))
    except (OSError, ValueError, HfHubHTTPError) as error:
        raise InputError(f"{name}: no such file or folder, and not to be had from the hub either "
                         f"({type(error).__name__}); check the name, the network and, for a gated model, "
                         "`hf auth login`") from None


def _paper_like(name: str) -> Preset:
    preset = load_preset(name)
    if preset.components["multiview"]["class"] != "SVDMultiviewUNet":
        raise InputError(f"--preset {name}: its models are not SVD's and LGM's; expected paper or narrow")
    return preset


def _check_target(out: Path) -> None:
    check_writable(out)
    if out.is_dir() and any(out.iterdir()) and not (out / "model_index.json").is_file():
        raise InputError(f"{out}: is a folder of something else; choose another --out")


def _svd_components(folder: Path, scale: Preset) -> tuple[dict, dict[str, str]]:
    """What stays as it is in SVD: autoencoder, image encoder and noise levels, and the files they come from."""
    if not folder.is_dir():
        raise InputError(f"{folder}: is a file; expected a folder of Stable Video Diffusion in diffusers' layout")
    autoencoder, vae = _on_meta(scale, "autoencoder"), _weights(folder / "vae")
    _check_config(folder / "vae", {key: autoencoder.config[key] for key in (
        "block_out_channels", "layers_per_block", "latent_channels", "scaling_factor")})
    load_exactly(autoencoder, read_tensors(vae), vae, "vae.")
    encoder, clip = _on_meta(scale, "image_encoder"), _weights(folder / "image_encoder")
    _check_config(folder / "image_encoder", _sizes(scale.components["image_encoder"]))
    tensors = read_tensors(clip)
    tensors.pop("vision_model.embeddings.position_ids", None)  # 0, 1, 2, ...: older transformers wrote them
    load_exactly(encoder, tensors, clip)
    size = encoder.config.image_size
    _check_config(folder / "feature_extractor", {"image_mean": CLIP_MEAN, "image_std": CLIP_STD,
                                                 "crop_size": {"height": size, "width": size}},
                  "preprocessor_config.json")
    _check_config(folder / "scheduler", {key: scale.components["scheduler"][key] for key in ("sigma_min", "sigma_max")}
                  | {"prediction_type": "v_prediction"}, "scheduler_config.json")
    return ({"autoencoder": autoencoder, "image_encoder": encoder,
             "scheduler": EDMNoise(**scale.components["scheduler"])},
            {"autoencoder": str(vae), "image_encoder": str(clip)})


def _lgm(name: str, config: dict) -> tuple[LGMReconstructor, str]:
    """LGM with fresh layers for the noise level. Their last ones are zero: it starts as LGM, whatever the level."""
    file = fetch(name, [])
    if file.is_dir():
        raise InputError(f"{name}: is a folder; give LGM's safetensors file, for example model_fp16_fixrot.safetensors")
    model = _fresh(lambda: LGMReconstructor(**_sizes(config)))
    load_exactly(model, read_tensors(file), file,
                 fresh=[key for key in model.state_dict() if "time_embed" in key or "emb_layers" in key])
    return model, f"{file}; noise level fresh"


def _on_meta(scale: Preset, component: str) -> nn.Module:
    with torch.device("meta"):
        return scale.create(component)


def _fresh(make: Callable):
    """What `make` returns, with the same random numbers every time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make()


def _sizes(entry: dict) -> dict:
    return {key: value for key, value in entry.items() if key != "class"}


def _weights(folder: Path) -> Path:
    """The weights of a component of diffusers or transformers, one file or the index of its shards; full precision if
    there are several."""
    stem = "model" if folder.name == "image_encoder" else "diffusion_pytorch_model"
    names = [f"{stem}.safetensors", f"{stem}.safetensors.index.json", f"{stem}.fp16.safetensors",
             f"{stem}.safetensors.index.fp16.json"]
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise InputError(f"{folder}: no {' or '.join(names)} there; expected a folder of Stable Video Diffusion in "
                     "diffusers' layout")


def _check_config(folder: Path, expected: dict, name: str = "config.json") -> None:
    """Raise InputError unless the file says what shapes of tensors do not tell."""
    stated = checked(read_json(folder / name), dict, folder / name)
    for key, value in expected.items():
        value = list(value) if isinstance(value, tuple) else value
        if key in stated and stated[key] != value:
            raise InputError(f"{folder / name}: {key} is {stated[key]}, expected {value}; is it of another model?")


def _find(folder: Path, name: str) -> Path:
    found = sorted(folder.rglob(name)) if folder.is_dir() else []
    if len(found) != 1:
        raise InputError(f"{folder}: {'several files' if found else 'no file'} {name} in it; expected one, and one of "
                         f"each of {', '.join(RELEASED_FILES.values())}")
    return found[0]


def _write(out: Path, pipeline: Ouroboros3DPipeline) -> None:
    with new_folder(out) as part:
        pipeline.save_pretrained(part, max_shard_size=SHARD)
