"""What a notebook shows of the pipeline's output and of Gaussians, and what is printed."""

import base64
import io
import re

import numpy as np
import pytest
import torch
from PIL import Image

from ouroboros_lib.gaussians import Gaussians


def pictures(page):
    return [Image.open(io.BytesIO(base64.b64decode(data)))
            for data in re.findall(r'src="data:image/webp;base64,([^"]+)"', page)]


@pytest.mark.parametrize("output_type", ["pt", "np", "pil"])
def test_an_output_shows_input_splat_and_views(tiny, picture, output_type):
    output = tiny(picture, elevation=20, num_inference_steps=1, output_type=output_type, return_trace=True)
    page = output._repr_html_()
    shown, sheet = pictures(page)
    assert np.abs(np.asarray(shown) / 255 - picture[0].movedim(0, -1).numpy()).mean() < 0.02
    assert sheet.width > 4 * 96 and np.ptp(np.asarray(sheet)) > 100
    assert page.count("<iframe") == 1 and "&quot;turning&quot;: true" in page
    assert float(re.search(r"&quot;elevation&quot;: ([\d.]+)", page)[1]) == pytest.approx(20, abs=1e-3)
    assert repr(output) == str(output) == ("Ouroboros3DOutput(1 x 4 views of 32 x 32, Gaussians(1 x 1024 on cpu), "
                                           "trace of 1 steps)")


def test_of_a_large_batch_some_are_shown(tiny, picture):
    page = tiny(picture.expand(6, -1, -1, -1), num_inference_steps=1)._repr_html_()
    assert page.count("<iframe") == 4 and "and 2 more" in page


def test_gaussians_show_themselves():
    gaussians = Gaussians.from_tensor(torch.rand(2, 50, 14))
    page = gaussians._repr_html_()
    assert page.count("<iframe") == 1 and "Gaussians(2 x 50 on cpu)</code>, the first set" in page
    assert repr(gaussians[1]) == "Gaussians(50 on cpu)" and "first set" not in gaussians[1]._repr_html_()
    gaussians.means[:] = torch.nan  # must not raise: IPython would print a traceback
    assert "Gaussians(2 x 50 on cpu)" in gaussians._repr_html_()
