"""Files like the published ones, of narrow models: made once for all tests of this folder."""

import pytest
from stand_ins import run, write_stand_ins

from ouroboros_lib.pipeline import Ouroboros3DPipeline


@pytest.fixture(scope="session")
def perturbed_narrow(perturb):
    pipe = Ouroboros3DPipeline.from_preset("narrow", seed=3)
    for seed, model in enumerate((pipe.autoencoder, pipe.multiview, pipe.reconstructor, pipe.image_encoder)):
        perturb(model, seed=seed)
    pipe.set_progress_bar_config(disable=True)
    run(pipe, steps=1)  # numba's first call may change torch's number of threads, and with it the last digits
    return pipe


@pytest.fixture(scope="session")
def published(perturbed_narrow, tmp_path_factory):
    """svd/ in diffusers' layout, lgm.safetensors, and released/ with the two .pth files, all narrow."""
    root = tmp_path_factory.mktemp("published")
    write_stand_ins(perturbed_narrow, root)
    return root
