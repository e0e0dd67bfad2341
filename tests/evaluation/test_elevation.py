"""The elevation is found by how well reconstructions fit the input, and no other way."""

import math
from types import SimpleNamespace

import pytest
import torch

from ouroboros_lib.cameras import evenly_spaced_orbit
from ouroboros_lib.data.batches import held_out_objects
from ouroboros_lib.evaluation.elevation import SURE, estimate_elevation, expected
from ouroboros_lib.pipeline import Ouroboros3DPipeline


def test_candidates_count_by_their_scores():
    assert expected([-5, 0, 5], [20, 20, 20]) == pytest.approx(0)
    assert expected([-5, 0, 5], [0, 50, 10]) == pytest.approx(0, abs=1e-6)
    assert expected([0, 10], [20, 20 + SURE * math.log(3)]) == pytest.approx(7.5)


def test_what_is_estimated_is_where_views_and_splat_agree_best():
    """A stand-in for the pipeline, whose renders are the worse the farther the elevation is from 12."""
    asked = {}

    def pipe(images, elevation, generator, **options):
        asked.update(options, elevation=elevation, noise=[one.initial_seed() for one in generator])
        error = 0.1 * 10 ** ((elevation - 12).abs() / 20)[:, None, None, None, None]
        views = images[:, None].expand(-1, 8, -1, -1, -1)
        return SimpleNamespace(views=views, renders=SimpleNamespace(rgb=views + error))

    found = estimate_elevation(pipe, torch.zeros(3, 8, 8), (0, 8, 16, 24), seed=3)
    assert found.degrees == pytest.approx(12, abs=1e-4) and found.candidates == (0, 8, 16, 24)
    assert asked["elevation"].tolist() == [0, 8, 16, 24] and asked["noise"] == [3, 3, 3, 3]
    assert list(found.scores) == sorted(found.scores[:2]) + sorted(found.scores[2:], reverse=True)


def test_an_object_of_the_validation_split():
    pipe = Ouroboros3DPipeline.from_pretrained("small")
    pipe.set_progress_bar_config(disable=True)
    truth = held_out_objects("val", 1, pipe.image_size, pipe.num_views, novel_views=0, start=1)
    right = evenly_spaced_orbit(pipe.num_views, 21.5).c2w[0]
    assert torch.allclose(truth.orbit_cameras.c2w[0, 0], right, atol=0.01)
    found = estimate_elevation(pipe, truth.images[0, 0], (0, 10, 20, 30), steps=3)
    assert abs(found.degrees - 21.5) < 5 and found.scores[2] > found.scores[0] + 3
