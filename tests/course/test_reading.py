"""F's feedback encoders, put back to zero and trained alone: what they are given, and what shows that they learned."""

import io

import pytest
import torch
from PIL import Image

from ouroboros_lib.course.reading import answers, draw_measures, fed, forget, line_5, lines_1_to_4, measures
from ouroboros_lib.losses import denoising_loss
from ouroboros_lib.models.condition import Condition


@pytest.fixture
def examples(tiny, objects):
    return lines_1_to_4(tiny, objects, 2.0, 20.0)


@torch.no_grad()
def test_lines_1_to_4_are_algorithm_1s(tiny, objects, examples):
    assert ((examples.sigma >= 2) & (examples.sigma <= 20)).all()
    x = tiny.autoencoder.encode(objects.orbit_images)
    cond, cameras = Condition(x[:, 0]), objects.orbit_cameras
    pred_x = tiny.estimate(examples.noisy_x, examples.sigma, cond, cameras)
    renders = tiny.render(tiny.reconstruct(tiny.decode(pred_x), cameras, examples.sigma), cameras)
    for name, maps in examples.maps.items():
        torch.testing.assert_close(maps, renders[name], atol=1e-3, rtol=1e-3)


def test_line_5_is_given_no_condition_view(tiny, examples):
    other = examples[[1, 2, 0]]
    other.noisy_x, other.sigma, other.cameras = examples.noisy_x, examples.sigma, examples.cameras
    torch.testing.assert_close(line_5(tiny, examples, None), line_5(tiny, other, None))


def test_new_encoders_answer_zero_and_are_all_that_learns(tiny, examples):
    encoders = forget(tiny)
    assert torch.equal(line_5(tiny, examples, examples.maps), line_5(tiny, examples, None))
    learning = {id(value) for value in tiny.multiview.parameters() if value.requires_grad}
    assert learning == {id(value) for value in encoders.parameters()}
    frozen = [*tiny.autoencoder.parameters(), *tiny.reconstructor.parameters()]
    assert not any(value.requires_grad for value in frozen)


def test_new_noise_for_the_same_renders(examples):
    again = examples.renoised(5.0, 6.0)
    assert torch.equal(again.x, examples.x) and again.maps is examples.maps
    assert ((again.sigma >= 5) & (again.sigma <= 6)).all() and not torch.equal(again.noisy_x, examples.noisy_x)


def test_other_maps_are_those_of_another_object(examples):
    given = fed(examples)
    assert given["zero"] is None and torch.equal(given["own"]["rgb"], examples.maps["rgb"])
    assert torch.equal(given["other"]["ccm"][1], examples.maps["ccm"][0])


def test_who_draws_what_it_is_shown_agrees_with_it_alone(examples):
    found = measures(examples, {"own": examples.views, "zero": torch.ones_like(examples.views),
                                "other": fed(examples)["other"]["rgb"].clamp(0, 1)})
    assert found["quality"]["own"] > 60 > found["quality"]["other"]
    assert found["agreement"]["other"] > 60 > found["agreement"]["own"]


def test_a_few_steps_lower_the_loss_of_what_they_are_shown(tiny, examples):
    optimizer = torch.optim.Adam(forget(tiny).parameters(), lr=3e-3)
    losses = []
    for _ in range(12):
        loss = denoising_loss(line_5(tiny, examples, examples.maps), examples.x, examples.sigma)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


def test_the_curves_are_a_picture(tiny, examples):
    log = [(0, measures(examples, answers(tiny, examples)))]
    assert Image.open(io.BytesIO(draw_measures(log))).width > 500
