"""Films of the notebooks: small, with a still that says it all, words, and frames that show what was computed."""

import base64
import io
import re
from html import unescape
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from ouroboros_lib.cameras import evenly_spaced_orbit, to_canonical
from ouroboros_lib.course import animations
from ouroboros_lib.course.animations import LIMIT, Animation, agreement, coins, fit, flow, followed_point
from ouroboros_lib.noise import EDMNoise

STEPS, SIDE, VIEWS = 5, 64, 8
SIGMAS = EDMNoise(sigma_min=0.05, sigma_max=80.0).sigmas(STEPS)
BALL = 0.3  # world units


def picture(red: float) -> torch.Tensor:
    """A disc on white (3, S, S)."""
    y, x = torch.meshgrid(*[torch.linspace(-1, 1, SIDE)] * 2, indexing="ij")
    disc = torch.tensor([red, 0.4, 0.2])[:, None, None].expand(3, SIDE, SIDE)
    return torch.where(x**2 + y**2 < 0.5, disc, 1.0)


def drawn_flow(steps=STEPS):
    sigmas = EDMNoise(sigma_min=0.05, sigma_max=80.0).sigmas(steps)
    path = torch.randn(steps + 1, 12, generator=torch.Generator().manual_seed(0)) * (1 + sigmas[:, None])
    return flow(sigmas, path, lambda x, sigma: torch.exp(-x**2 / (2 + 2 * sigma**2)) / (1 + sigma**2).sqrt())


def drawn_coins():
    start = torch.randn(200, 2, generator=torch.Generator().manual_seed(0))
    ends = {"apart": start.sign(), "together": start.sum(dim=1, keepdim=True).sign().expand(-1, 2)}
    return coins(SIGMAS, {name: torch.stack([end + sigma * start for sigma in SIGMAS]) for name, end in ends.items()})


def drawn_fit():
    return fit(picture(0.9), [(10 * n, picture(0.1 + 0.2 * n), 20.0 + n) for n in range(STEPS)], 1234)


def traces() -> dict:
    def step(number: int, shift: float):
        views = torch.stack([picture(0.1 * number)] * VIEWS)[None]
        return SimpleNamespace(index=number, sigma=float(SIGMAS[number]), views=views, rgb=(views + shift).clamp(0, 1))
    return {name: [step(number, shift) for number in range(STEPS)] for name, shift in (("two", 0.1), ("one", 0.02))}


def drawn_agreement():
    return agreement(traces(), "one", (1, 4))


def drawn_point():
    """On a ball, in front of view 0: seen from there and its neighbours, not from behind."""
    cameras = evenly_spaced_orbit(VIEWS, 0.0)
    origins, directions = cameras.rays(SIDE)
    middle = -(origins * directions).sum(-1)
    beside = origins.square().sum(-1) - middle**2
    along = (middle - (BALL**2 - beside).clamp_min(0).sqrt()) * (beside < BALL**2)
    depth = (along * (directions * cameras.c2w[:, None, None, :3, 2]).sum(-1))[:, None]
    return followed_point(torch.tensor([0.0, 0.0, BALL]), cameras.canonical_map(depth), depth, cameras)


FILMS = {"flow": (drawn_flow, STEPS + 1), "coins": (drawn_coins, STEPS + 1), "fit": (drawn_fit, STEPS),
         "agreement": (drawn_agreement, STEPS), "point": (drawn_point, VIEWS)}


@pytest.fixture(scope="module", params=FILMS)
def film(request):
    draw, steps = FILMS[request.param]
    return draw(), steps


def pixels(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture.convert("RGB"), np.int16)


def test_a_film_is_small_and_plays_a_still_and_then_every_step(film):
    animation, steps = film
    data = animation.webp()
    with Image.open(io.BytesIO(data)) as played:
        assert len(data) <= LIMIT and played.n_frames == steps + 1 and played.info["loop"] == 0
        times, seen = [], []
        for number in range(played.n_frames):
            played.seek(number)
            seen.append(pixels(played))
            times.append(played.info["duration"])
    assert times == list(animation.milliseconds) and times[0] >= 2000
    assert all(np.abs(one - other).max() > 60 for one, other in zip(seen[1:], seen[2:], strict=False))
    assert np.abs(seen[0] - seen[-1]).mean() < 1  # the still is where the film ends
    assert all(np.abs(one - pixels(frame)).mean() < 4 for one, frame in zip(seen, animation.frames, strict=True))


def test_of_many_steps_some_are_left_out_but_neither_end(monkeypatch):
    monkeypatch.setattr(animations, "MOST_DRAWN", 4)
    many, few = drawn_flow(60), drawn_flow()
    assert len(many.frames) == len(many.milliseconds) == 5
    for number in (0, 1):  # both end at sigma 0, and begin at 80: the titles say so
        assert np.array_equal(pixels(many.frames[number])[:26], pixels(few.frames[number])[:26])
    assert not np.array_equal(pixels(many.frames[2])[:26], pixels(many.frames[1])[:26])


def test_the_still_shows_something_and_stands_alone(film, tmp_path):
    animation, _ = film
    still = pixels(animation.frames[0])
    assert (still.max(-1) < 200).mean() > 0.005 and still.std() > 10
    animation.save_still(tmp_path / "folder" / "still.png")
    with Image.open(tmp_path / "folder" / "still.png") as saved:
        assert saved.size == animation.frames[0].size and np.abs(pixels(saved) - still).mean() < 4


def test_a_notebook_shows_film_still_and_words(film):
    animation, _ = film
    shown = animation._repr_mimebundle_()
    page = shown["text/html"]
    still, played = (base64.b64decode(data) for data in re.findall(r'data:image/webp;base64,([^"]+)"', page))
    assert played == animation.webp() and Image.open(io.BytesIO(still)).n_frames == 1
    assert '<source media="print, (prefers-reduced-motion: reduce)"' in page
    assert unescape(re.search(r'alt="(.+?)"', page)[1]) == animation.alt and len(animation.alt) > 40
    assert unescape(re.search("<figcaption>(.+?)</figcaption>", page)[1]) == animation.caption
    assert Image.open(io.BytesIO(base64.b64decode(shown["image/png"]))).size == animation.frames[0].size
    assert "<script" not in page and "http" not in page


def test_the_words_say_what_came_out():
    assert "apart: " in drawn_coins().alt and "together: 100 % of the pairs" in drawn_coins().alt
    assert "1,234 Gaussians" in drawn_fit().alt and "from 20.0 to 24.0 dB" in drawn_fit().alt
    two, one = (float(score) for score in re.findall(r": ([\d.]+) dB", drawn_agreement().alt))
    assert one > two + 5  # nearer to its own renders
    place = to_canonical(torch.tensor([0.0, 0.0, BALL]))
    assert f"in {3} of them" in drawn_point().alt and ", ".join(f"{value:.2f}" for value in place) in drawn_point().alt


@pytest.mark.parametrize("change, words", [
    ({"frames": [Image.new("RGB", (8, 8))], "milliseconds": [1]}, "two frames"),
    ({"milliseconds": [1]}, "time for each"),
    ({"frames": [Image.new("RGB", (8, side)) for side in (8, 9)]}, "differ in size"), ({"alt": " "}, "does not see it"),
    ({"caption": "two\nlines"}, "one line")])
def test_what_is_missing_is_said(change, words):
    whole = {"frames": [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")], "milliseconds": [1, 1],
             "alt": "red, then blue", "caption": "Watch."}
    Animation(**whole)
    with pytest.raises(ValueError, match=words):
        Animation(**whole | change)


def test_a_film_that_cannot_be_small_is_refused():
    noise = np.random.default_rng(0).integers(0, 256, (4, 600, 600, 3), np.uint8)
    film = Animation([Image.fromarray(frame) for frame in noise], [100] * 4, "noise", "Watch the noise.")
    with pytest.raises(ValueError, match="take fewer or smaller frames"):
        film.webp()
