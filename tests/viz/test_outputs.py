"""Sheets, turntable, viewer page and the staging of results."""

import base64
import json
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from ouroboros_lib.cameras import evenly_spaced_orbit
from ouroboros_lib.errors import InputError
from ouroboros_lib.export.turntable import render_turntable, write_mp4
from ouroboros_lib.gaussians import Gaussians
from ouroboros_lib.rasterization import rasterize
from ouroboros_lib.viz.outputs import FILES, check_targets, figures, staged
from ouroboros_lib.viz.sheets import image_grid, multiview_sheet, recursion_sheet, to_pil
from ouroboros_lib.viz.viewer import write_viewer


@pytest.fixture(scope="module")
def blob():
    """1,500 Gaussians on a sphere, red in front (+z), blue behind."""
    generator = torch.Generator().manual_seed(0)
    means = torch.nn.functional.normalize(torch.randn(1500, 3, generator=generator), dim=-1) * 0.4
    colors = torch.where(means[:, 2:] > 0, torch.tensor([1.0, 0.1, 0.1]), torch.tensor([0.1, 0.1, 1.0]))
    return Gaussians(means, torch.full((1500,), 0.9), torch.full((1500, 3), 0.03),
                     torch.tensor([1.0, 0, 0, 0]).expand(1500, 4), colors)


def test_grid_shows_every_picture_unchanged():
    tiles = torch.rand(2, 3, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    sheet = np.asarray(image_grid(tiles, row_labels=["a", "two\nlines"], column_labels=["x", "y", "z"], title="t"))
    for tile in tiles.flatten(0, 1):
        pixels = np.asarray(to_pil(tile))
        places = np.argwhere((sheet[..., :] == pixels[0, 0]).all(-1))
        assert any(np.array_equal(sheet[r:r + 128, c:c + 128], pixels) for r, c in places)


def test_grid_enlarges_small_tiles_and_draws_labels():
    tiles = torch.ones(1, 2, 3, 32, 32)
    plain, labelled = image_grid(tiles), image_grid(tiles, column_labels=["left", "a label too long for its column"])
    assert plain.width >= 2 * 96 and labelled.width == plain.width
    assert (np.asarray(labelled)[: labelled.height - plain.height + 4] < 128).any()


def test_grid_scales_pictures_to_a_side():
    tiles = torch.linspace(0, 1, 128).expand(1, 2, 3, 128, 128)
    sheet = np.asarray(image_grid(tiles, side=160), np.float32)
    assert sheet.shape[1] - np.asarray(image_grid(tiles)).shape[1] == 2 * 32
    row = sheet[sheet.shape[0] // 2, 6:166, 0]  # a ramp that stays one: no steps of two equal pixels
    assert row[0] < 8 and row[-1] > 247 and (np.diff(row) > 0).all()


def test_grid_with_an_empty_place_and_wrong_shapes():
    tile = torch.zeros(3, 96, 96)
    sheet = np.asarray(image_grid([[tile, None]]))
    assert (sheet == 0).all(-1).sum() == 96 * 96
    with pytest.raises(ValueError, match="one size"):
        image_grid([[tile, torch.zeros(3, 48, 48)]])
    with pytest.raises(ValueError, match="row_labels"):
        image_grid([[tile]], row_labels=["a", "b"])


def test_recursion_sheet_has_first_and_last_step_and_four_views(monkeypatch):
    import ouroboros_lib.viz.sheets as sheets

    seen = {}
    monkeypatch.setattr(sheets, "image_grid", lambda rows, path, labels, columns, groups: seen.update(
        rows=rows, labels=labels, columns=columns, groups=groups))
    def record(step):
        kinds = torch.arange(4.0) * 100
        maps = [(kind + step + torch.arange(8.0) / 10).view(1, 8, 1, 1, 1).expand(1, 8, 3, 8, 8) for kind in kinds]
        return SimpleNamespace(index=step, sigma=80.0 / (step + 1), noisy=maps[0], views=maps[1], rgb=maps[2],
                               ccm=maps[3])
    recursion_sheet([record(step) for step in range(25)])
    values = torch.tensor([[float(tile[0, 0, 0]) for tile in row] for row in seen["rows"]])
    assert values.shape == (6, 16) and [values[0, 0], values[-1, 0]] == [0, 24]
    assert torch.allclose(values[0], torch.tensor([k * 100 + v / 10 for k in range(4) for v in (0, 2, 4, 6)]))
    assert seen["labels"][0] == "step 1\nsigma 80" and seen["labels"][-1].startswith("step 25\n")
    with pytest.raises(ValueError, match="return_trace"):
        recursion_sheet([])


def test_recursion_sheet_of_one_step(tmp_path):
    maps = torch.rand(1, 4, 3, 32, 32)
    step = SimpleNamespace(index=0, sigma=80.0, noisy=maps, views=maps, rgb=maps, ccm=maps)
    recursion_sheet([step], tmp_path / "sheet.png")
    assert (tmp_path / "sheet.png").stat().st_size > 1000


def test_turntable_starts_in_front_and_goes_round(blob):
    frames = render_turntable(blob, elevation=0.0, frames=8, size=64)
    rig = evenly_spaced_orbit(8, 0.0)
    assert torch.allclose(frames, rasterize(blob, rig, 64).rgb.clamp(0, 1), atol=1e-6)
    front, back = frames[0, :, 32, 32], frames[4, :, 32, 32]
    assert front[0] > 0.8 > 0.3 > front[2] and back[2] > 0.8 > 0.3 > back[0]


def test_mp4_can_be_read_back(tmp_path, blob, monkeypatch):
    import imageio.v3 as iio

    frames = render_turntable(blob, frames=6, size=64)
    monkeypatch.chdir(tmp_path)
    Path("run:1").mkdir()  # no protocol of ffmpeg's
    write_mp4("run:1/turn.mp4", frames)
    assert Path("run:1/turn.mp4").is_file()
    write_mp4(tmp_path / "turn.mp4", frames)
    read = iio.imread(tmp_path / "turn.mp4", plugin="FFMPEG")
    assert read.shape == (6, 64, 64, 3)
    written = (frames * 255).movedim(1, -1).numpy()
    errors = np.abs(read[:, None].astype(float) - written[None]).mean((2, 3, 4))
    assert (errors.argmin(1) == np.arange(6)).all() and errors.diagonal().max() < 8  # lossy, but the same pictures
    with pytest.raises(ValueError, match="even"):
        write_mp4(tmp_path / "odd.mp4", frames[..., :63])


def test_viewer_is_one_page_that_holds_the_splat(tmp_path, blob):
    faint = blob.map(torch.clone)
    faint.opacities[:100] = 0.001
    image_grid(torch.rand(1, 1, 3, 96, 96), tmp_path / "sheet.png")
    pictures = {"A <sheet>": tmp_path / "sheet.png"}
    write_viewer(tmp_path / "viewer.html", faint, 10.0, pictures=pictures, title="%%SCENE%% <b>")
    page = (tmp_path / "viewer.html").read_text()
    assert not re.search(r"(src|href)\s*=\s*[\"']?(https?:|//|/|\w+\.)", page) and "fetch(\"" not in page
    assert "&lt;b&gt;" in page and "A &lt;sheet&gt;" in page and "data:image/webp;base64," in page
    scene = json.loads(re.search(r'type="application/json">(.*?)</script>', page, re.S)[1])
    (tmp_path / "back.splat").write_bytes(base64.b64decode(scene["splat"]))
    back = Gaussians.load(tmp_path / "back.splat", axes="y-up")
    assert back.shape == (1400,) and scene["elevation"] == 10.0  # those that cannot be seen are left out
    assert torch.allclose(back.means.sum(0), blob.means[100:].sum(0), atol=1e-3)


def test_figures_are_psnr_by_definition(blob):
    views = torch.full((4, 3, 8, 8), 0.5)
    renders = views.clone()
    renders[0] += 0.1
    renders[1:] += 0.01
    found = figures(torch.full((3, 8, 8), 0.4), views, renders, blob)
    assert found["self_consistency_psnr_view_0"] == 20.0 and found["self_consistency_psnr_other_views"] == 40.0
    assert found["self_consistency_psnr"] == 35.0 and found["input_psnr_view_0"] == 20.0
    assert found["gaussians"] == 1500 == found["gaussians_visible"]


def test_multiview_sheet_writes_a_file(tmp_path):
    sheet = multiview_sheet(torch.rand(8, 3, 128, 128), torch.rand(8, 3, 128, 128), tmp_path / "multiview.png")
    assert sheet.width > 8 * 128 and (tmp_path / "multiview.png").is_file()


# ---- staging ---------------------------------------------------------------------------------------------------------


def test_staged_files_appear_together_and_others_stay(tmp_path):
    out = tmp_path / "a" / "b"
    with staged(out) as stage:
        (stage / "one.txt").write_text("1")
        assert not (out / "one.txt").exists()
    (out / "mine.txt").write_text("mine")
    with staged(out) as stage:
        (stage / "one.txt").write_text("2")
    assert {path.name: path.read_text() for path in out.iterdir()} == {"one.txt": "2", "mine.txt": "mine"}


@pytest.mark.parametrize("failure", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_a_failure_leaves_nothing(tmp_path, failure):
    out = tmp_path / "a" / "b"
    with pytest.raises(failure), staged(out) as stage:
        (stage / "one.txt").write_text("1")
        raise failure
    assert not (tmp_path / "a").exists()
    out.mkdir(parents=True)
    (out / "one.txt").write_text("older")
    with pytest.raises(failure), staged(out) as stage:
        (stage / "one.txt").write_text("newer")
        raise failure
    assert [path.read_text() for path in out.iterdir()] == ["older"]


def test_a_full_disk_is_bad_input(tmp_path):
    with pytest.raises(InputError, match="No space left"), staged(tmp_path / "out"):
        raise OSError(28, "No space left on device")
    assert not (tmp_path / "out").exists()


def test_output_folder_checks(tmp_path):
    check_targets(tmp_path / "new" / "deep", FILES)
    assert not any(tmp_path.iterdir())
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is a file"):
        check_targets(tmp_path / "file", FILES)
    with pytest.raises(InputError, match="is a file, not a folder"):
        check_targets(tmp_path / "file" / "below", FILES)
    (tmp_path / "result.json").mkdir()
    with pytest.raises(InputError, match="result.json: is a folder"):
        check_targets(tmp_path, FILES)
