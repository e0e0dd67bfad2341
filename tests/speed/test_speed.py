"""What makes it faster: fewer reconstructions, the same work with fewer passes, and how it is measured."""

import pytest
import torch

from ouroboros_lib import benchmark, precision
from ouroboros_lib.errors import InputError


def run(pipeline, picture, steps=4, **options):
    return pipeline(picture, num_inference_steps=steps, generator=torch.Generator().manual_seed(0), **options)


def count_calls(monkeypatch, pipeline):
    calls = {"decode": 0, "reconstruct": 0}
    for name, owner in (("decode", pipeline.autoencoder), ("reconstruct", pipeline)):
        original = getattr(owner, name)

        def counted(*args, name=name, original=original):
            calls[name] += 1
            return original(*args)
        monkeypatch.setattr(owner, name, counted)
    return calls


@pytest.mark.parametrize(("options", "decodes", "reconstructions"), [
    ({}, 5, 5), ({"feedback_every": 2}, 3, 3), ({"feedback_every": 3}, 3, 3), ({"feedback_every": 9}, 2, 2),
    ({"feedback_every": 2, "feedback_from_step": 1}, 3, 3), ({"feedback": "none"}, 1, 1),
    ({"feedback_share": 0.5}, 3, 3), ({"feedback": "none", "project_above": 0.0, "project_every": 2}, 3, 3),
    ({"feedback_every": 2, "project_above": 0.0, "project_every": 4}, 3, 3)])
def test_what_nobody_looks_at_is_not_computed(tiny, picture, monkeypatch, options, decodes, reconstructions):
    calls = count_calls(monkeypatch, tiny)
    run(tiny, picture, 5, **options)
    assert calls == {"decode": decodes, "reconstruct": reconstructions}


def test_between_reconstructions_the_last_one_is_fed_back(tiny, picture, monkeypatch):
    seen, estimate = [], tiny.estimate
    monkeypatch.setattr(tiny, "estimate", lambda *args: seen.append(args[4]) or estimate(*args))
    plain = run(tiny, picture, 5).views
    seen.clear()
    assert torch.equal(run(tiny, picture, 5, feedback_every=1).views, plain)
    seen.clear()
    every_second = run(tiny, picture, 5, feedback_every=2)
    assert seen[0] is None and seen[1] is seen[2] and seen[3] is seen[4] and seen[2] is not seen[3]
    assert not torch.equal(every_second.views, plain)
    # what is recorded on the way, or shown to a callback, changes nothing
    shown = []
    traced = run(tiny, picture, 5, feedback_every=2, return_trace=True, callback_on_step_end_tensor_inputs=("pred_i",),
                 callback_on_step_end=lambda pipe, step, sigma, tensors: shown.append(tensors["pred_i"]))
    assert torch.equal(traced.views, every_second.views) and len(traced.trace) == len(shown) == 5
    with pytest.raises(InputError, match="feedback_every must be at least 1"):
        run(tiny, picture, feedback_every=0)
    with pytest.raises(InputError, match="project_every must be at least 1"):
        run(tiny, picture, project_every=0)


@pytest.mark.parametrize(("options", "towards"), [
    ({"feedback": "none", "project_every": 3}, [0, 0, 0, 3, 3]),
    ({"feedback_every": 2, "project_every": 5}, [0, 0, 2, 2, 4]),  # the feedback's are there for this, too
    ({"feedback_every": 5, "project_every": 2}, [0, 0, 2, 2, 4])])
def test_between_reconstructions_steps_go_towards_the_last_one(tiny, picture, monkeypatch, options, towards):
    options["project_above"] = 0.0
    in_every_step = run(tiny, picture, 5, **options | {"project_every": 1}).views
    latents, encode, reached = [], tiny.autoencoder.encode, []
    monkeypatch.setattr(tiny.autoencoder, "encode", lambda images: latents.append(encode(images)) or latents[-1])
    seldom = run(tiny, picture, 5, callback_on_step_end_tensor_inputs=("pred_x",), **options,
                 callback_on_step_end=lambda pipe, step, sigma, tensors: reached.append(tensors["pred_x"]))
    targets = dict(zip(sorted(set(towards)), latents[1:], strict=True))  # the first was the input
    assert all(torch.equal(value, targets[step]) for value, step in zip(reached, towards, strict=True))
    assert not torch.equal(seldom.views, in_every_step)
    traced = run(tiny, picture, 5, return_trace=True, **options)
    assert torch.equal(traced.views, seldom.views) and len(traced.trace) == 5


def test_zero_maps_are_no_feedback(tiny, picture):
    """What compiled models see before the first reconstruction."""
    plain = run(tiny, picture, 2, feedback_from_step=1)
    tiny._compiled = True
    blank = run(tiny, picture, 2, feedback_from_step=1)
    torch.testing.assert_close(blank.views, plain.views, atol=1e-5, rtol=0)


@pytest.mark.parametrize("program", [benchmark, precision])
def test_small_models_keep_their_weights_in_single_precision(program, capsys):
    with pytest.raises(SystemExit) as caught:
        program.main(["tiny", "--steps", "1", "--modes", "bf16-weights", "--device", "cpu"])
    assert caught.value.code == 2
    assert "tiny, mode bf16-weights: weights in half precision are for the paper's models" in capsys.readouterr().err
