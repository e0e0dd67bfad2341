"""A narrow pipeline with SVD's and LGM's layers, and what its training step is given."""

import copy

import pytest
import torch

from ouroboros_lib.data.batches import held_out_objects
from ouroboros_lib.pipeline import Ouroboros3DPipeline
from ouroboros_lib.training import TrainingConfig, loop, validation
from ouroboros_lib.training.initial import save_pipeline
from ouroboros_lib.training.stages import noised_condition


@pytest.fixture(autouse=True)
def few_validation_steps(monkeypatch):
    monkeypatch.setattr(validation, "INFERENCE_STEPS", 1)


@pytest.fixture
def runs(monkeypatch):
    """What `train` sets up in this test, in order."""
    made, build = [], loop.set_up
    monkeypatch.setattr(loop, "set_up", lambda *arguments: made.append(build(*arguments)) or made[-1])
    return made


@pytest.fixture(scope="session")
def _narrow(perturb):
    pipe = Ouroboros3DPipeline.from_pretrained("narrow")
    for seed, model in enumerate((pipe.autoencoder, pipe.multiview, pipe.reconstructor)):
        perturb(model, seed=seed, scale=0.02)
    pipe.set_progress_bar_config(disable=True)
    pipe.autoencoder.requires_grad_(False)
    pipe.image_encoder.requires_grad_(False)
    return pipe


@pytest.fixture
def narrow(_narrow):
    """A `narrow` pipeline in which no weight is zero; the test's own copy."""
    return copy.deepcopy(_narrow)


@pytest.fixture(scope="session")
def _batch(_narrow):
    objects = held_out_objects("val", 2, 64, 8, novel_views=2)
    with torch.no_grad():
        objects.latents = _narrow.autoencoder.encode(objects.orbit_images)
    torch.manual_seed(7)
    return objects, noised_condition(_narrow, objects.images[:, 0], TrainingConfig())


@pytest.fixture
def batch(_batch):
    """Two objects with latents, and what F is given of their view 0."""
    return copy.copy(_batch[0]), copy.copy(_batch[1])


@pytest.fixture(scope="session")
def narrow_folder(tmp_path_factory):
    """A whole pipeline folder, as `ouroboros convert svd` writes."""
    folder = tmp_path_factory.mktemp("start") / "pipeline"
    save_pipeline(Ouroboros3DPipeline.from_preset("narrow", seed=5), folder)
    return folder
