"""The network that estimates elevations: its range, what changes nothing, and the one that ships."""

import math

import pytest
import torch
from torch.testing import assert_close

from ouroboros_lib.cameras import ELEVATION_RANGE, orbit_cameras
from ouroboros_lib.data.batches import held_out_objects
from ouroboros_lib.data.procedural import render_objects, sample_objects
from ouroboros_lib.errors import InputError
from ouroboros_lib.models.elevation import ElevationEstimator
from ouroboros_lib.pipeline import Ouroboros3DPipeline

GUESS = sum(ELEVATION_RANGE) / 2


@pytest.fixture(scope="module")
def shipped():
    return Ouroboros3DPipeline.from_pretrained("small")


@pytest.fixture
def network():
    network = ElevationEstimator()
    network.output.weight.data *= 30  # as sure of itself as a trained one
    return network.eval()


@torch.no_grad()
@pytest.mark.parametrize("size", [32, 64, 128, 200])
def test_degrees_of_each_picture_in_its_range(network, size):
    images = torch.rand(5, 3, size, size)
    found = network(images)
    assert found.shape == (5,) and found.dtype == torch.float32
    assert -10 < found.min() and found.max() < 50 and found.unique().numel() == 5
    assert_close(network(images[2:3])[0], found[2])  # others in the batch change nothing
    assert_close(network(images.flip(-1)), found)  # nor does a mirror


@torch.no_grad()
def test_the_estimate_is_the_mean_of_its_bins(network):
    network.output.weight.zero_()
    network.output.bias.fill_(-1000.0)
    network.output.bias[[4, 8]] = torch.tensor([0.0, math.log(3)])  # 2 and 14 degrees
    assert_close(network(torch.rand(2, 3, 64, 64)), torch.full((2,), 11.0))


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_changes_little(shipped, dtype):
    images = held_out_objects("val", 4, 128, 8, novel_views=0).images[:, 0]
    half = ElevationEstimator.from_config(shipped.elevation.config)
    half.load_state_dict(shipped.elevation.state_dict())
    found = half.eval().to(dtype)(images)
    assert found.dtype == torch.float32
    assert (found - shipped.elevation(images)).abs().max() < (0.2 if dtype == torch.float16 else 1.5)


def test_it_is_small(shipped):
    assert sum(value.numel() for value in shipped.elevation.parameters()) < 200_000
    assert not shipped.elevation.training and shipped.elevation.dtype == torch.float32


def test_objects_of_the_validation_split(shipped):
    """Far better than the middle of the range for all of them."""
    truth = held_out_objects("val", 24, 128, 8, novel_views=0)
    height = torch.nn.functional.normalize(truth.orbit_cameras.positions[:, 0], dim=-1)[:, 1]
    true = height.asin().rad2deg()
    error, guess = ((found - true).abs() for found in (shipped.estimate_elevation(truth.images[:, 0]), GUESS))
    assert error.mean() < 0.7 * guess.mean() and error.max() < 25


def test_the_estimate_grows_with_the_elevation(shipped):
    objects = sample_objects("val", range(8))
    heights = torch.tensor([0.0, 15.0, 30.0])
    views = render_objects(objects, orbit_cameras(torch.zeros(3), heights).expand(8), 128)
    found = shipped.estimate_elevation(views.images.flatten(0, 1)).unflatten(0, (8, 3))
    assert (found.diff(dim=1) > 0).float().mean() > 0.9
    assert (found[:, 2] - found[:, 0]).mean() > 15


def test_pipelines_without_it_say_so(tiny, picture):
    assert tiny.elevation is None
    with pytest.raises(InputError, match="^these weights cannot estimate the elevation: give it in degrees$"):
        tiny.estimate_elevation(picture)


def test_a_pipeline_takes_it_along(tiny, picture, network, tmp_path):
    tiny.save_pretrained(tmp_path / "without")
    assert Ouroboros3DPipeline.from_pretrained(tmp_path / "without").elevation is None
    tiny.register_modules(elevation=network)
    tiny.save_pretrained(tmp_path / "with")
    loaded = Ouroboros3DPipeline.from_pretrained(tmp_path / "with")
    assert_close(loaded.estimate_elevation(picture), tiny.estimate_elevation(picture))
    assert "import ouroboros_lib.models.elevation" in (tmp_path / "with" / "pipeline.py").read_text()
    path = tmp_path / "with" / "elevation" / "diffusion_pytorch_model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match="cannot be loaded as Ouroboros3D weights"):
        Ouroboros3DPipeline.from_pretrained(tmp_path / "with")


@pytest.mark.parametrize("wrong", [{"high": 5000.0}, {"low": 50.0, "high": 50.0}, {"image_size": 0}, {"bins": 1}])
def test_ranges_that_make_no_sense_are_refused(wrong):
    with pytest.raises(InputError, match="^elevation: .* expected some from -90 to 90"):
        ElevationEstimator(**wrong)


def test_a_model_of_another_kind_in_its_place_is_refused(tiny):
    parts = {name: part for name, part in tiny.components.items() if name != "elevation"}
    with pytest.raises(InputError, match="expected an ElevationEstimator, got a Autoencoder"):
        Ouroboros3DPipeline(**parts, elevation=tiny.autoencoder)
