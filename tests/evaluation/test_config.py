"""What an evaluation can be asked for, and what it refuses in one line."""

import pytest

from ouroboros_lib.errors import InputError
from ouroboros_lib.evaluation.config import EvaluationConfig

BAD = {
    "plan's name": ({"plan": ["papers"]}, "expected one of paper, calm"),
    "equal plans": ({"plan": ["paper", "every=1"]}, "plan=paper paper: two of them"),
    "text for a number": ({"steps": "25"}, "steps=25: expected a whole number from 1"),
    "too small": ({"seeds": 0}, "seeds=0: expected a whole number"), "no number": ({"eta": float("nan")}, "eta=nan"),
    "switch for a number": ({"objects": True}, "objects=True"), "choice": ({"lpips": "squeeze"}, "alex, vgg, off"),
    "unknown": ({"metric": "psnr"}, "metric: no option of an evaluation; expected some of plan"),
    "on the fly": ({"data": "x", "split": "val"}, "split=val: is not for data=x"),
    "of folders": ({"meshes": ["x"]}, "is not for procedural objects; it needs data"),
    "shapes": ({"data": "x", "geometry": 2}, "give the true meshes"),
    "more shapes": ({"objects": 2, "geometry": 3}, "only 2 objects"),
    "convention": ({"data": "x", "convention": "LGM"}, "not for method=ours"),
    "sample": ({"data": "x", "sample": 1}, "sample=1: is for other methods"),
    "mirror": ({"data": "x", "method": "mesh:x", "mirror": "maybe"}, "yes, no, unknown"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_options_are_refused_in_one_line(name):
    options, message = BAD[name]
    with pytest.raises(InputError, match=message) as caught:
        EvaluationConfig.from_options(options)
    assert "\n" not in str(caught.value)


def test_plans_are_kept_as_their_shortest_text():
    config = EvaluationConfig(plan=["calm,every=3", "feedback=none", "paper"])
    assert config.plan == ("calm,every=3", "two-stage", "paper")
    assert EvaluationConfig.from_options({"plan": "projection"}).plan == ("projection",)


def test_every_default_is_accepted():
    assert EvaluationConfig.from_options({}) == EvaluationConfig()
