"""Shared by the tests of models, pipeline, training and evaluation: a tiny pipeline and a few real objects.

Fixtures import what they need when they run: tests of what needs no torch begin at once, and how idle threads
wait can be set here, which torch reads when it is loaded.
"""

from __future__ import annotations

import copy
import os
import signal
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    import torch

    from ouroboros_lib.data.batches import MultiviewBatch
    from ouroboros_lib.pipeline import Ouroboros3DPipeline

# Tests run two at a time, as `make pytest` does it: an idle thread's waiting is the other process's time.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
# Where a shell started them in the background, interrupts are ignored, and by the processes that tests start as well.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _perturb(module, scale: float = 0.03, seed: int = 0):
    """Add noise to all weights, in place: layers that start at zero would hide what lies before them."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += scale * torch.randn(parameter.shape, generator=generator)
    return module


@pytest.fixture(autouse=True)
def _same_random_numbers():
    """Weights that a test makes are the same in every run."""
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


@pytest.fixture(scope="session")
def perturb():
    return _perturb


@pytest.fixture(scope="session")
def _tiny() -> Ouroboros3DPipeline:
    from ouroboros_lib.pipeline import Ouroboros3DPipeline

    pipeline = Ouroboros3DPipeline.from_pretrained("tiny")
    for seed, name in enumerate(("autoencoder", "multiview", "reconstructor")):
        _perturb(getattr(pipeline, name), seed=seed)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture
def tiny(_tiny) -> Ouroboros3DPipeline:
    """A `tiny` pipeline in which no weight is zero; the test's own copy."""
    return copy.deepcopy(_tiny)


@pytest.fixture(scope="session")
def _objects(_tiny) -> MultiviewBatch:
    import torch

    from ouroboros_lib.data.batches import held_out_objects

    batch = held_out_objects("val", 3, _tiny.image_size, _tiny.num_views, novel_views=2)
    with torch.no_grad():
        batch.latents = _tiny.autoencoder.encode(batch.orbit_images)
    return batch


@pytest.fixture
def objects(_objects) -> MultiviewBatch:
    """Three procedural objects, four orbit and two novel views of 32 px, with their latents."""
    return copy.copy(_objects)


@pytest.fixture
def picture(objects) -> torch.Tensor:
    """(1, 3, 32, 32), the condition view of the first object."""
    return objects.images[:1, 0]


@pytest.fixture(scope="session")
def rendered():
    """Six procedural objects at 64 px, 8 orbit and 6 novel views."""
    from ouroboros_lib.data.batches import held_out_objects
    from ouroboros_lib.data.folders import MultiviewObject

    batch = held_out_objects("val", 6, 64, 8, novel_views=6)
    return [MultiviewObject(f"thing{i}", batch.rgba[i], batch.cameras[i], 8) for i in range(6)]


@pytest.fixture(scope="session")
def rendered_folder(tmp_path_factory, rendered):
    from ouroboros_lib.data.folders import write_object

    root = tmp_path_factory.mktemp("objects")
    for views in rendered:
        write_object(root / views.name, views)
    return root


@pytest.fixture(scope="session")
def rendered_shards(tmp_path_factory, rendered):
    from shard_inputs import write_shards

    root = tmp_path_factory.mktemp("shards")
    write_shards(rendered, root, max_bytes=60_000)
    assert len(list(root.glob("*.tar"))) >= 3
    return root
