"""The page of `ouroboros app`: a picture in, the recursion as it forms, a splat and a mesh to turn and to download."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import torch

from ..cameras import evenly_spaced_orbit
from ..data.photo import load_photo
from ..errors import InputError, needs
from ..export.formats import FORMATS, Settings, Source
from ..files import disk_trouble, where
from ..gaussians import INVISIBLE
from ..gaussians.page import viewer_iframe
from ..plans import PLANS, Plan
from .sheets import multiview_sheet, recursion_sheet

if TYPE_CHECKING:
    import gradio as gr

    from ..pipeline import Ouroboros3DPipeline

SAMPLES = Path(__file__).parents[1] / "data" / "samples"


@torch.no_grad()
def generate_live(pipe: Ouroboros3DPipeline, picture: str | Path, elevation: float, plan: str | Plan, steps: int,
                  seed: int, folder: Path) -> Iterator[dict[str, Any]]:
    """What the page shows, by the names of its parts, after every reconstruction, with the splat, and with the mesh.

    picture: a file. elevation: degrees. folder: for temporary files, which are gone when the generator ends. Parts:
    status, a line; views and recursion, sheets; splat, HTML; mesh, a file; files, a list. Raises InputError.
    """
    plan = Plan.parse(plan)
    image = load_photo(picture, pipe.image_size).image[None].to(pipe.device)
    cameras = evenly_spaced_orbit(pipe.num_views, torch.tensor(float(elevation))).to(pipe.device).expand(1)
    generator = torch.Generator().manual_seed(seed or 0)
    cond = pipe.condition(image, cameras, plan, pipe.config.guidance_scale, generator)
    trace = []
    for step in pipe.iterate(cond, cameras, plan, steps, generator):
        parts: dict[str, Any] = {"status": f"step {step.t + 1} of {steps}, sigma {float(step.sigma):.2g}"}
        if step.views is not None:
            trace.append(record := pipe.record(step, plan, cond, cameras))
            parts |= {"views": multiview_sheet(record.views[0], record.rgb[0]), "recursion": recursion_sheet(trace)}
        yield parts
    gaussians = step.gaussians[0].float().to("cpu")
    try:
        with where(folder), TemporaryDirectory(dir=folder, ignore_cleanup_errors=True) as made:
            yield from _results(Source(gaussians, elevation), Path(made))
    except OSError as error:
        raise InputError(disk_trouble(error)) from None


def _results(source: Source, folder: Path) -> Iterator[dict[str, Any]]:
    def written(name: str) -> str:
        path = folder / FORMATS[name].name
        FORMATS[name].write(path, source, Settings())
        return shutil.make_archive(str(path), "zip", path) if path.is_dir() else str(path)

    status = f"{int((source.gaussians.opacities > INVISIBLE).sum())} Gaussians"
    files = [written("ply"), written("splat")]
    yield {"status": f"{status}; the mesh follows", "files": files,
           "splat": viewer_iframe(source.gaussians, source.elevation, turning=True)}
    files = [*files, written("views")]
    try:
        mesh = written("glb")
    except InputError as error:  # the splat is there all the same
        yield {"status": f"{status}; {error}", "files": files}
    else:
        yield {"mesh": mesh, "files": [*files, mesh]}
        yield {"status": status}  # on its own: gradio sends the last part twice, and a mesh would stay blank


def app_page(pipe: Ouroboros3DPipeline, folder: Path) -> gr.Blocks:
    """The page, to be launched with SAMPLES and `folder`, that of temporary files, among its allowed paths."""
    with needs("app", "the app"):
        import gradio as gr

    @contextmanager
    def refusals(picture: str | None) -> Iterator[None]:
        try:
            if picture is None:
                raise InputError("choose a picture first")
            yield
        except InputError as error:
            raise gr.Error(str(error).replace(str(picture), Path(picture or "").name), print_exception=False) from None

    def cut_out(picture: str | None):
        if picture is None:
            return None, "", gr.skip()
        with refusals(picture):
            photo = load_photo(picture, pipe.image_size)
        looked_down = gr.skip() if pipe.elevation is None else round(float(pipe.estimate_elevation(photo.image[None])))
        return photo.to_pil(), "; ".join(photo.notes).replace(picture, Path(picture).name), looked_down

    def run(picture: str | None, *settings):
        yield {part: None for part in parts.values()}
        with refusals(picture):
            for shown in generate_live(pipe, picture, *settings, folder):
                yield {parts[name]: value for name, value in shown.items()}

    with gr.Blocks(title="Ouroboros3D", analytics_enabled=False, delete_cache=(3600, 3600)) as blocks:
        gr.Markdown("# Ouroboros3D: a picture of one object to a 3D Gaussian splat")
        with gr.Row():
            with gr.Column():
                picture = gr.File(label="Picture", file_types=["image"], height=140)
                samples = gr.Dataset(label="Samples", components=[gr.Image(render=False)], type="values",
                                     samples=[[str(path)] for path in sorted(SAMPLES.glob("*.[pw]*"))])
                elevation = gr.Slider(-90, 90, 10, step=1, label="Elevation",
                                      info="degrees by which the camera looked down on the object"
                                      + ("" if pipe.elevation is None else ", estimated"))
            seen = gr.Image(label="What the model sees", interactive=False, height=320, buttons=["fullscreen"])
            with gr.Column():
                plan = gr.Dropdown(list(dict.fromkeys([pipe.config.plan, *PLANS])), value=pipe.config.plan,
                                   label="Plan", allow_custom_value=True, info="or a change, such as calm,every=3")
                steps = gr.Slider(1, 100, pipe.config.num_inference_steps, step=1, label="Steps")
                seed = gr.Number(0, minimum=0, maximum=2**53, precision=0, label="Seed")
                button = gr.Button("Generate", variant="primary")
        parts = {"status": gr.Markdown()} | {
            name: gr.Image(show_label=False, interactive=False, buttons=["download", "fullscreen"])
            for name in ("views", "recursion")}  # which say by themselves what they show
        with gr.Row():
            parts |= {"splat": gr.HTML(), "mesh": gr.Model3D(label="Mesh", height=440),
                      "files": gr.File(label="Files", file_count="multiple", interactive=False)}
        samples.click(lambda sample: sample[0], samples, picture, show_progress="hidden")
        picture.change(cut_out, picture, [seen, parts["status"], elevation], concurrency_limit=1)
        button.click(run, [picture, elevation, plan, steps, seed], list(parts.values()), concurrency_limit=1,
                     show_progress="minimal")
    return blocks
