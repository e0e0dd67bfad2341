"""Exercises of 06: metrics and means, intervals of pairs, and how another method's world lies in ours."""

from __future__ import annotations

import math

import numpy as np
from matplotlib.figure import Figure

from ..evaluation.conventions import load_convention
from .checking import Exercise, curve

CAP = 100.0  # dB, of identical pictures
MEAN, SPREAD, SAMPLES = 20.0, 2.0, 16  # dB, of the scores from which the best is picked


def _random(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def _comparisons() -> list[tuple]:
    return [(metric, first, second) for metric, scale in (("psnr", 30.0), ("ssim", 1.0), ("lpips", 1.0), ("flip", 1.0))
            for first, second in ((0.8 * scale, 0.7 * scale), (0.1 * scale, 0.3 * scale))]


def _better(metric: str, first: float, second: float, falling: tuple[str, ...] = ("lpips", "flip")) -> str:
    return "first" if (first < second if metric in falling else first > second) else "second"


def _decibel(error: np.ndarray) -> np.ndarray:
    return -10 * np.log10(error)


def _view_scores() -> list[tuple]:
    scores = _random().normal(24, 4, size=(6, 8))
    scores[:, 0] += 10  # F nearly copies the input
    return [(scores,)]


def _counted(scores: np.ndarray) -> tuple[float, float]:
    copied = scores.copy()
    copied[:, 0] = CAP
    return scores[:, 1:].mean(), copied.mean()


def _best(pick=np.max, objects: int = 10_000) -> Figure:
    scores = _random().normal(MEAN, SPREAD, size=(objects, SAMPLES))
    numbers = range(1, SAMPLES + 1)
    figure = Figure()
    figure.subplots().plot(numbers, [pick(scores[:, :n], axis=1).mean() for n in numbers])
    return figure


def _scores() -> tuple[np.ndarray, np.ndarray]:
    """Of two methods, in dB: objects differ much more than methods do."""
    random, objects = _random(1), 24
    difficulty = random.normal(22, 4, objects)
    return difficulty + random.normal(0.3, 0.4, objects), difficulty + random.normal(0, 0.4, objects)


def _resampled() -> list[tuple]:
    first, second = _scores()
    return [(first, second, _random(2).integers(len(first), size=(2000, len(first))))]


def _interval(first: np.ndarray, second: np.ndarray, draws: np.ndarray, ends: tuple[float, float] = (2.5, 97.5)
              ) -> np.ndarray:
    return np.percentile((first - second)[draws].mean(1), ends)


def _by_formula(mean: float, error: float) -> tuple[float, float]:
    return mean - 1.96 * error, mean + 1.96 * error


def _error(values: np.ndarray) -> float:
    return values.std(ddof=1) / math.sqrt(len(values))


def _points() -> list[tuple]:
    return [(_random().normal(size=(5, 3)), np.array(load_convention("TripoSR").axes), scale) for scale in (1.0, 0.8)]


EXERCISES = {
    "1": Exercise(
        examples=_comparisons, solution=_better,
        mistakes=[
            (lambda *given: _better(*given, falling=()),
             "LPIPS and FLIP are distances: 0 is best, so the smaller one is better."),
            (lambda *given: _better(*given, falling=("lpips",)),
             "FLIP is an error, too: what an observer notices who flips between two pictures."),
            (lambda *given: _better(*given, falling=("ssim", "lpips", "flip")),
             "SSIM is a similarity: 1 for the same picture."),
        ],
        says="PSNR and SSIM rise, LPIPS and FLIP fall. Tables mark it with arrows; those without are misread."),
    "2": Exercise(
        examples=lambda: [(np.array([0.001, 0.01, 0.03]),), (np.full(4, 0.02),)],
        solution=lambda errors: (_decibel(errors).mean(), _decibel(errors.mean())),
        mistakes=[
            (lambda errors: (_decibel(errors.mean()), _decibel(errors).mean()),
             "the order: first the mean of the PSNRs, then the PSNR of the mean error."),
            (lambda errors: (_decibel(errors).mean(), _decibel(errors).mean()),
             "both are the mean of PSNRs. For the second, take the mean of the errors first."),
            (lambda errors: (-10 * np.log(errors).mean(), -10 * np.log(errors.mean())),
             "decibels use the logarithm to the base 10; np.log is the natural one."),
        ],
        says="The mean of PSNRs is never lower. Objects that are nearly right pull it up; objects that are wrong rule "
             "the mean error."),
    "3": Exercise(
        examples=_view_scores, solution=_counted,
        mistakes=[
            (lambda scores: (scores[:, 1:].mean(), scores.mean()),
             "the second is of the same method when it returns the input as view 0: that view scores 100 dB then."),
            (lambda scores: (scores.mean(), _counted(scores)[1]),
             "the first counts view 0 as well. Views 1 to 7 are the ones that the method has to invent."),
            (lambda scores: (scores[:, :-1].mean(), _counted(scores)[1]),
             "this leaves out the last view. The input is view 0, the first one."),
        ],
        says="Nearly ten decibels for a copy of what was given: more than any two methods of the paper's table 1 lie "
             "apart. So view 0 is left out."),
    "4": Exercise(
        solution=_best,
        mistakes=[
            (lambda: _best(np.mean),
             "it does not rise: take each object's largest score of the first n, not the mean."),
            (lambda: _best(lambda scores, axis: scores.max()),
             "this is the best of all objects. Pick for each object on its own, then take the mean over objects."),
            (lambda: _best(np.max, objects=5),
             "it does not start at 20, or does not end near 23.5: draw 10,000 objects, so that chance averages out."),
        ],
        properties=[
            (lambda answer: len(curve(answer)) == SAMPLES and np.allclose(curve(answer)[:, 0], range(1, SAMPLES + 1)),
             "the horizontal axis has to be n = 1, 2, ..., 16."),
            (lambda answer: curve(answer)[-1, 1] < MEAN + 3 * SPREAD,
             "this is the best of all objects. Pick for each object on its own, then take the mean over objects."),
            (lambda answer: np.ptp(curve(answer)[:, 1]) > SPREAD / 4,
             "it does not rise: take each object's largest score of the first n, not the mean."),
            (lambda answer: (np.diff(curve(answer)[:, 1]) >= 0).all(),
             "it falls somewhere. The best of n + 1 is never worse than the best of n: keep the first n of the same "
             "scores."),
            (lambda answer: np.allclose(curve(answer)[[0, -1], 1], (MEAN, MEAN + 1.766 * SPREAD), atol=SPREAD / 10),
             "it does not start at 20, or does not end near 23.5: draw 10,000 objects, so that chance averages out."),
            (lambda answer: curve(answer)[3, 1] > MEAN + 0.9 * SPREAD,
             "it rises along a line: the second sample gains most, each further one less."),
        ],
        says="3.5 dB without any better method: the truth did the choosing. A table has to say how many samples there "
             "were, and who chose."),
    "5": Exercise(
        examples=_resampled, solution=_interval,
        mistakes=[
            (lambda first, second, draws: _by_formula((first - second).mean(), math.hypot(_error(first),
                                                                                          _error(second))),
             "this ignores the pairs: the spread of the objects is in it twice. Take the differences first."),
            (lambda first, second, draws: np.percentile(first - second, (2.5, 97.5)),
             "this is where 95 % of the objects lie. The interval is for their mean: take means of draws first."),
            (lambda first, second, draws: _interval(first, second, draws, (5, 95)),
             "between 5 and 95 lie 90 %. Of 95 %, 2.5 are left out on either side."),
            (lambda first, second, draws: _by_formula((first - second).mean(), _error(first - second)),
             "the formula, and close; but asked for is the bootstrap, with `draws`."),
            (lambda first, second, draws: (np.percentile(first[draws].mean(1), 2.5)
                                           - np.percentile(second[draws].mean(1), 97.5),
                                           np.percentile(first[draws].mean(1), 97.5)
                                           - np.percentile(second[draws].mean(1), 2.5)),
             "one interval minus the other: too wide. The same objects are in both, so take differences first."),
        ],
        says="Efron's bootstrap of pairs. The objects' own spread has left it: both methods had the same ones."),
    "6": Exercise(
        examples=_points, solution=lambda points, axes, scale: scale * points @ axes.T,
        mistakes=[
            (lambda points, axes, scale: scale * points @ axes,
             "this turns the other way. A row of `axes` is one of our axes, so its product with a point is our "
             "coordinate: points @ axes.T."),
            (lambda points, axes, scale: points @ axes.T / scale,
             "multiply by the scale: it leads from theirs to ours."),
            (lambda points, axes, scale: points @ axes.T, "the scale is missing."),
        ],
        says="z up has become y up. A mesh that is read without this scores like a very bad method, about 8 dB."),
}
