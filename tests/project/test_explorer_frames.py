"""What `tools.explorer_frames` measures of the explorer in notebook 04, and of a small one whose figures are known."""

import statistics

import pytest
import torch
from explorer_inputs import explorer_runs

from ouroboros_lib.cameras import orbit_cameras
from ouroboros_lib.rasterization.projection import MIN_ALPHA, project
from ouroboros_lib.viz.recursion_page import recursion_explorer
from tools.explorer_frames import committed_page, fragments, main, milliseconds, opened

HALF_A_FRAME = 1000 / 60 / 2  # milliseconds


@pytest.fixture
def small(browser, tmp_path):
    """One run, and its page; the camera stands as that of view 0 does."""
    run = explorer_runs()["a"]
    recursion_explorer({"a": run}).save(tmp_path / "small.html")
    tab = opened(browser, tmp_path / "small.html")
    tab.evaluate("() => Object.assign(orbit, {azimuth: 0, elevation: 10})")
    yield run, tab
    tab.close()


def test_scripts_leave_half_of_each_frame_free(browser, tmp_path):
    """At sixty frames a second, for the three splats of notebook 04; a median, since the machine may be busy."""
    (tmp_path / "explorer.html").write_text(committed_page(), encoding="utf-8")
    tab = opened(browser, tmp_path / "explorer.html")
    assert statistics.median(milliseconds(tab, 30)) < HALF_A_FRAME
    tab.close()


def test_a_slow_sort_is_noticed(small):
    _, tab = small
    tab.evaluate("""() => { const sort = SplatView.prototype.sort;
        SplatView.prototype.sort = function (...view) {
            const end = performance.now() + 9;
            while (performance.now() < end);
            return sort.apply(this, view);
        }; }""")
    assert statistics.median(milliseconds(tab, 5)) > HALF_A_FRAME


def test_fragments_are_those_of_the_formula(small):
    run, tab = small
    (blended,), (shaded,) = fragments(tab, True), fragments(tab, False)
    side, gaussians = blended["side"], run.trace[-1].gaussians
    p = project(gaussians, orbit_cameras([0.0], 10.0)[None], side)
    centres = torch.arange(side) + 0.5
    expected = 0
    for i in range(gaussians.shape[-1]):
        du, dv = centres - p.u[0, 0, i], (centres - p.v[0, 0, i])[:, None]
        power = 0.5 * (p.conic_uu[0, 0, i] * du**2 + p.conic_vv[0, 0, i] * dv**2) + p.conic_uv[0, 0, i] * du * dv
        expected += int((gaussians.opacities[0, i] * torch.exp(-power) >= MIN_ALPHA).sum())
    assert blended["count"] == gaussians.shape[-1] and blended["fragments"] == pytest.approx(expected, rel=0.02)
    assert shaded["fragments"] > 1.1 * blended["fragments"]


def test_one_line_for_what_is_no_page(tmp_path, capsys):
    with pytest.raises(SystemExit) as caught:
        main([str(tmp_path / "gone.html")])
    assert caught.value.code == 2 and capsys.readouterr().err.startswith(f"error: {tmp_path / 'gone.html'}: ")
