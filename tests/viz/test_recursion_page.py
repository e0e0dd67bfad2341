"""The recursion explorer's page: what it holds, that it needs nothing else, and what is refused."""

import base64
import html
import io
import json
import re
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from explorer_inputs import SIZE, STEPS, VIEWS, explorer_runs
from PIL import Image

from ouroboros_lib.cameras import evenly_spaced_orbit
from ouroboros_lib.errors import InputError
from ouroboros_lib.losses import psnr
from ouroboros_lib.rasterization import rasterize
from ouroboros_lib.viz.packing import pack_splats, unpack_splats
from ouroboros_lib.viz.recursion_page import TRUST, recursion_explorer


@pytest.fixture(scope="module")
def runs():
    return explorer_runs()


def scene_of(page: str) -> dict:
    return json.loads(re.search(r'id="scene" type="application/json">(.*?)</script>', page, re.S)[1])


def strip(text: str) -> torch.Tensor:
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(text))).convert("RGB"), np.float32) / 255
    return torch.from_numpy(pixels).movedim(-1, 0)


def test_packed_splats_render_like_the_originals(runs):
    steps = [step.gaussians[0] for step in runs["a"].trace]
    steps = [replace(splat, opacities=splat.opacities.clone()) for splat in steps]
    for splat in steps:
        splat.opacities[::3] = 0.05  # too faint to be kept
    packed, cameras = pack_splats(steps), evenly_spaced_orbit(3, 10.0)
    back = unpack_splats(packed)
    assert packed["count"] == 800 and back.shape == (STEPS, 800)
    for before, after in zip(steps, back.to_tensor(), strict=True):
        kept = before[before.opacities > 0.05]
        assert (after[:, :3] - kept.means).abs().max() < 1e-3
        drawn = rasterize(type(before).from_tensor(after), cameras, 128).rgb
        assert psnr(drawn, rasterize(kept, cameras, 128).rgb).min() > 38
    assert len(pack_splats(steps, coarser=2)["data"]) < 0.85 * len(packed["data"])


def test_a_step_like_the_one_before_costs_next_to_nothing(runs):
    splat = runs["a"].trace[0].gaussians[0]
    turned = replace(splat, quaternions=-splat.quaternions)  # the same rotations
    once, often = (len(pack_splats(steps)["data"]) for steps in ([splat], [splat, turned] * 10))
    assert often < 1.2 * once


def test_steps_of_other_sizes_are_refused(runs):
    splat = runs["a"].trace[0].gaussians[0]
    with pytest.raises(InputError, match="equally many Gaussians to be packed, got 1100, 1200"):
        pack_splats([splat, splat[:1100]])
    with pytest.raises(InputError, match="no steps has nothing to pack"):
        pack_splats([])


def test_the_largest_numbers_are_packed(runs):
    splat = runs["a"].trace[0].gaussians[0]
    far = replace(splat, means=splat.means.sign() * 3e38)
    assert np.isfinite(pack_splats([far])["unit"]).all()


def test_page_holds_every_step_view_and_figure(runs, tmp_path):
    truth = torch.rand(VIEWS, 3, SIZE, SIZE)
    explorer = recursion_explorer({"a</script>": runs["a"], "%%SCENE%%": runs["b"]}, truth)
    explorer.save(tmp_path / "explorer.html")
    page = (tmp_path / "explorer.html").read_text()
    assert not re.search(r"(src|href)\s*=\s*[\"']?(https?:|//|/|\w+\.)", page) and "import(" not in page
    scene = scene_of(page)
    assert [design["name"] for design in scene["designs"]] == ["a</script>", "%%SCENE%%"]
    for design, run in zip(scene["designs"], runs.values(), strict=True):
        assert len(design["estimate"]) == len(design["noisy"]) == len(scene["steps"]) == STEPS
        for step, recorded in enumerate(run.trace):
            expected = torch.cat(list(recorded.views[0]), -1)
            assert psnr(strip(design["estimate"][step]), expected) > 30
            assert strip(design["noisy"][step]).shape == (3, SIZE // 2, VIEWS * SIZE // 2)
            for name, other in (("psnr", truth), ("agreement", recorded.rgb[0])):
                expected = psnr(recorded.views[0], other).tolist()
                assert design["figures"][name][step] == pytest.approx(expected, abs=0.006)
    poses = torch.tensor([view["view"] for view in scene["views"]]).view(VIEWS, 4, 4).mT
    torch.testing.assert_close(poses, runs["a"].cameras.world_to_camera()[0])
    assert [round(view["azimuth"]) % 360 for view in scene["views"]] == [0, 90, 180, 270]
    assert all(view["elevation"] == pytest.approx(10, abs=1e-3) for view in scene["views"])


def test_what_the_pipeline_returns_is_taken(tiny, objects):
    outputs = {plan: tiny(objects.images[:2, 0], num_inference_steps=2, plan=plan, return_trace=True)
               for plan in ("paper", "two-stage")}
    explorer = recursion_explorer(outputs, objects.orbit_images[1], index=1)
    drawn = unpack_splats(scene_of(explorer.page)["designs"][0]["splats"])
    assert psnr(rasterize(drawn[1], outputs["paper"].cameras[1], 32).rgb, outputs["paper"].renders.rgb[1]).min() > 25


def test_cell_is_the_page_in_a_frame_and_a_picture_without_it(runs):
    explorer = recursion_explorer(runs)
    cell = explorer._repr_html_()
    assert html.unescape(re.search(r'srcdoc="([^"]*)"', cell)[1]) == explorer.page
    assert TRUST in cell and cell.index("data:image/webp") < cell.index("<iframe")
    assert scene_of(explorer.page)["truth"] is None and "MB" in repr(explorer)


def test_splats_are_rounded_more_until_the_page_fits(runs):
    fine = recursion_explorer(runs)
    size = len(fine._repr_html_())
    coarse = recursion_explorer(runs, most_bytes=size - 1000)
    assert len(coarse._repr_html_()) <= size - 1000
    units = [scene_of(explorer.page)["designs"][0]["splats"]["unit"][0] for explorer in (fine, coarse)]
    assert units[1] == pytest.approx(2 * units[0], rel=1e-2)
    with pytest.raises(InputError, match=r"takes 0\.\d MB, but most_bytes is 0.0 MB: show fewer runs"):
        recursion_explorer(runs, most_bytes=10_000)


def test_runs_that_do_not_fit_together_are_refused(runs):
    other = SimpleNamespace(trace=runs["b"].trace, cameras=evenly_spaced_orbit(VIEWS, torch.tensor([20.0])))
    with pytest.raises(InputError, match="'a' and 'b' have different cameras"):
        recursion_explorer({"a": runs["a"], "b": other})
    few = SimpleNamespace(trace=runs["b"].trace, cameras=runs["b"].cameras[:, :2])
    with pytest.raises(InputError, match="run 'b' has 4 views, but 2 cameras"):
        recursion_explorer({"b": few})
    with pytest.raises(InputError, match="same steps"):
        recursion_explorer({"a": runs["a"], "b": SimpleNamespace(trace=runs["b"].trace[:2], cameras=runs["b"].cameras)})
    with pytest.raises(InputError, match="'a' has no trace: .*return_trace"):
        recursion_explorer({"a": SimpleNamespace(trace=None, cameras=runs["a"].cameras)})
    with pytest.raises(InputError, match="nothing to show"):
        recursion_explorer({})
    small = [replace(step, views=step.views[..., ::2, ::2]) for step in runs["b"].trace]
    with pytest.raises(InputError, match=r"'b', recorded step 1 of 3, views: expected \(1, 4, 3, 64, 64\), by .* 'a'"):
        recursion_explorer({"a": runs["a"], "b": SimpleNamespace(trace=small, cameras=runs["b"].cameras)})
    for index in (1, -1):
        with pytest.raises(InputError, match=f"run 'a' has no object {index}: choose one from 0 to 0"):
            recursion_explorer(runs, index=index)
    with pytest.raises(InputError, match=r"truth: expected \(4, 3, 64, 64\), .* got \(1, 4, 3, 64, 64\): give"):
        recursion_explorer(runs, runs["a"].trace[0].rgb)


def spoilt(run: SimpleNamespace, **fields) -> dict[str, SimpleNamespace]:
    """The run as "b", with other fields in its second step."""
    trace = [*run.trace]
    trace[1] = replace(trace[1], **fields)
    return {"b": SimpleNamespace(trace=trace, cameras=run.cameras)}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("field", ["noisy", "views", "rgb", "ccm", "means", "opacities", "scales", "colors"])
def test_numbers_that_are_not_finite_are_refused_with_their_run_and_step(runs, field, value):
    step = runs["b"].trace[1]
    holder = step.gaussians if hasattr(step.gaussians, field) else step
    values = getattr(holder, field).clone(memory_format=torch.contiguous_format)
    values.view(-1)[7] = value
    fields = {field: values}
    if holder is not step:
        fields = {"gaussians": replace(holder, **fields)}
    with pytest.raises(InputError, match=rf"^run 'b'[,:] recorded step 2 of 3, {field}: 1 of \d+ numbers are NaN or "):
        recursion_explorer(spoilt(runs["b"], **fields))


def test_other_numbers_that_json_does_not_know_are_refused(runs):
    step, truth = runs["b"].trace[1], torch.rand(VIEWS, 3, SIZE, SIZE)
    with pytest.raises(InputError, match="'b', recorded step 2 of 3, sigma: 1 of 1 numbers"):
        recursion_explorer(spoilt(runs["b"], sigma=float("nan")))
    with pytest.raises(InputError, match="'b', recorded step 2 of 3, PSNR of views to rgb: 4 of 4 numbers"):
        recursion_explorer(spoilt(runs["b"], views=step.views * 1e30))
    truth[0, 0, 0, 0] = float("nan")
    with pytest.raises(InputError, match="^truth: 1 of 49152 numbers"):
        recursion_explorer(runs, truth)
    cameras = runs["b"].cameras[:]
    cameras.c2w = torch.full_like(cameras.c2w, float("nan"))
    with pytest.raises(InputError, match="^run 'b', cameras: 64 of 100 numbers"):
        recursion_explorer({"b": SimpleNamespace(trace=runs["b"].trace, cameras=cameras)})


def test_only_the_object_that_is_shown_needs_to_be_finite_and_it_is_the_picture_too(runs):
    def pair(step):
        """The step's object behind one of NaN."""
        both = {name: torch.cat([torch.full_like(values, float("nan")), values]) for name, values in vars(step).items()
                if isinstance(values, torch.Tensor)}
        return replace(step, **both, gaussians=step.gaussians.map(lambda values: torch.cat([values * 0, values])))

    run = runs["b"]
    batch = SimpleNamespace(trace=[pair(step) for step in run.trace], cameras=run.cameras[[0, 0]])
    alone, shown = recursion_explorer({"b": run}), recursion_explorer({"b": batch}, index=1)
    assert shown.page == alone.page and shown.picture.tobytes() == alone.picture.tobytes()
    with pytest.raises(InputError, match="NaN"):
        recursion_explorer({"b": batch}, index=0)


def test_a_step_without_gaussians_is_refused(runs):
    with pytest.raises(InputError, match="^run 'b': recorded step 2 of 3 has no Gaussians"):
        recursion_explorer(spoilt(runs["b"], gaussians=runs["b"].trace[1].gaussians[:, :0]))


@pytest.mark.parametrize("name", ["<!--<script>", "</script>", "\u2028<b>&amp;"])
def test_no_name_is_markup(runs, name):
    page = recursion_explorer({name: runs["a"]}).page
    stored = re.search(r'id="scene" type="application/json">(.*?)</script>', page, re.S)[1]
    assert "<" not in stored and json.loads(stored)["designs"][0]["name"] == name
