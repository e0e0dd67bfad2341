"""What makes it faster: fewer reconstructions, the same work with fewer passes, and how it is measured."""

import pytest
import torch

from tools import benchmark, half_precision


def run(pipeline, picture, steps=4, **options):
    return pipeline(picture, num_inference_steps=steps, generator=torch.Generator().manual_seed(0), **options)


def count_calls(monkeypatch, pipeline):
    calls = {"decode": 0, "reconstruct": 0}
    for name in calls:
        original = getattr(pipeline, name)

        def counted(*args, name=name, original=original):
            calls[name] += 1
            return original(*args)
        monkeypatch.setattr(pipeline, name, counted)
    return calls


@pytest.mark.parametrize(("plan", "count"), [
    ("paper", 5), ("every=2", 3), ("every=3", 3), ("every=9", 2), ("two-stage", 1),
    ("feedback=none,project_above=0,every=2", 3), ("every=2,project_above=0", 3)])
def test_only_what_a_plan_needs_is_decoded_and_reconstructed(tiny, picture, monkeypatch, plan, count):
    calls = count_calls(monkeypatch, tiny)
    run(tiny, picture, 5, plan=plan)
    assert calls == {"decode": count, "reconstruct": count}


def test_between_reconstructions_the_last_one_is_fed_back(tiny, picture, monkeypatch):
    seen, estimate = [], tiny.estimate
    monkeypatch.setattr(tiny, "estimate", lambda *args: seen.append(args[4]) or estimate(*args))
    every_second = run(tiny, picture, 5, plan="every=2")
    assert seen[0] is None and seen[1] is seen[2] and seen[3] is seen[4] and seen[2] is not seen[3]
    assert not torch.equal(every_second.views, run(tiny, picture, 5).views)
    # what is recorded on the way, or shown to a callback, changes nothing
    shown = []
    traced = run(tiny, picture, 5, plan="every=2", return_trace=True, callback_on_step_end_tensor_inputs=("pred_i",),
                 callback_on_step_end=lambda pipe, step, sigma, tensors: shown.append(tensors["pred_i"]))
    assert torch.equal(traced.views, every_second.views) and len(traced.trace) == len(shown) == 5


def test_between_reconstructions_the_solver_goes_towards_the_last_one(tiny, picture, monkeypatch):
    plan = "feedback=none,project_above=0,every=3"
    latents, encode, reached = [], tiny.autoencoder.encode, []
    monkeypatch.setattr(tiny.autoencoder, "encode", lambda images: latents.append(encode(images)) or latents[-1])
    step = tiny.scheduler.step
    monkeypatch.setattr(tiny.scheduler, "step",
                        lambda x, target, *rest: reached.append(target) or step(x, target, *rest))
    seldom = run(tiny, picture, 5, plan=plan)
    first, fourth = latents[1:3]  # the very first are the input's
    assert all(torch.equal(value, wanted) for value, wanted in zip(reached, [first] * 3 + [fourth], strict=False))
    assert not torch.equal(seldom.views, run(tiny, picture, 5, plan="projection,project_above=0").views)


def test_zero_maps_are_no_feedback(tiny, picture):
    """Compiled models always see maps: zero ones before the first reconstruction, and for what a plan leaves out."""
    for plan in ("from_step=1", "feedback=rgb", "two-stage"):
        tiny._compiled = False
        plain = run(tiny, picture, 2, plan=plan)
        tiny._compiled = True
        torch.testing.assert_close(run(tiny, picture, 2, plan=plan).views, plain.views, atol=1e-5, rtol=0)


def test_the_benchmark_times_every_mode_and_batch(monkeypatch, capsys):
    monkeypatch.setattr(benchmark, "RUNS", 1)
    benchmark.main(["tiny", "--steps", "1", "--batches", "1,2", "--modes", "eager,bf16", "--device", "cpu"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[::2]] == ["eager"] * 4 + ["bf16"] * 4
    for line, parts in zip(lines[::2], lines[1::2], strict=True):
        seconds = [float(part.split()[1]) for part in parts.removeprefix("    of which ").split(", ")]
        assert len(seconds) == 4 and min(seconds) > 0 and float(line.split()[5]) > 0
    with pytest.raises(SystemExit):
        benchmark.main(["tiny", "--modes", "fast"])


@pytest.mark.parametrize("program", [benchmark, half_precision])
def test_small_models_keep_their_weights_in_single_precision(program, capsys):
    with pytest.raises(SystemExit) as caught:
        program.main(["tiny", "--steps", "1", "--modes", "bf16-weights", "--device", "cpu"])
    assert caught.value.code == 2
    assert "tiny, mode bf16-weights: weights in half precision are for the paper's models" in capsys.readouterr().err
