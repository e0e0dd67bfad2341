"""What `export` and `view` read: results whose record says nothing sensible, scenes of any size."""

import warnings

import pytest
import torch
from gaussian_inputs import random_gaussians

from ouroboros_lib.errors import InputError
from ouroboros_lib.export.formats import load_source
from ouroboros_lib.viz.viewer import framed


@pytest.mark.parametrize("record", ["{}", "[]", "null", '{"settings": {"elevation": NaN}}',
                                    '{"settings": {"elevation": 1e9}}', '{"settings": {"elevation": "up"}}'])
def test_records_without_an_elevation(tmp_path, record):
    random_gaussians(5).save(tmp_path / "gaussians.ply")
    (tmp_path / "result.json").write_text(record)
    with pytest.raises(InputError, match="result.json: (settings|expected an object|not a JSON file .NaN)"):
        load_source(tmp_path)


@pytest.mark.parametrize("size", [1e-12, 1.0, 1e25])
def test_scenes_of_any_size_are_framed(size):
    gaussians = random_gaussians(50)
    gaussians.means *= size
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        means = framed(gaussians).means
    assert torch.isfinite(means).all() and means.norm(dim=-1).max() < 2
