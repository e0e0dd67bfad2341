"""Settings of a run, from text, and those that cannot be."""

import dataclasses
import math

import pytest

from ouroboros_lib.errors import InputError
from ouroboros_lib.training import TrainingConfig


def test_settings_from_text():
    config = TrainingConfig.from_settings(["stage=multiview", "steps=7", "learning_rate=1e-3", "joint=no",
                                           "detach_feedback=True", "feedback=ccm", "max_minutes=0.5"])
    assert (config.stage, config.steps, config.learning_rate, config.joint, config.detach_feedback, config.feedback,
            config.max_minutes) == ("multiview", 7, 1e-3, False, True, "ccm", 0.5)
    assert TrainingConfig.from_settings([]) == TrainingConfig()


@pytest.mark.parametrize("setting, message", [
    ("stepz=3", "--set stepz=3: expected key=value with one of these keys: stage, steps"),
    ("steps", "--set steps: expected key=value"),
    ("steps=many", "--set steps=many: expected a whole number of at least 1"),
    ("steps=2.5", "steps=2.5: expected a whole number"),
    ("learning_rate=fast", "learning_rate=fast: expected a number above 0"),
    ("joint=maybe", "joint=maybe: expected true or false"),
    ("steps=0", "steps=0: expected a whole number of at least 1"),
    ("batch_size=-1", "batch_size=-1: expected a whole number of at least 1"),
    ("stage=everything", "stage=everything: expected one of autoencoder, reconstructor, multiview, joint"),
    ("feedback=depth", "unknown feedback 'depth': expected both, none, or some of rgb, ccm joined by +"),
    ("mixed_precision=int4", "mixed_precision=int4: expected one of no, fp16, bf16"),
    ("condition_dropout=1.5", "condition_dropout=1.5: expected a number from 0 to 1"),
    ("self_conditioning_probability=nan", "expected a number from 0 to 1"),
    ("accumulation=0", "accumulation=0: expected a whole number of at least 1"),
    ("ema_device=gpu", "expected one of same, cpu"), ("workers=-1", "=-1: expected a whole number of at least 0"),
    ("lpips=squeeze", "expected one of off, alex, vgg"), ("image_loss=l2", "expected one of mixed, mse, l1"),
    ("schedule=linear", "expected one of cosine, constant"),
    ("orbit_supervision=2", "orbit_supervision=2: expected a number from 0 to 1"),
    ("adam_beta2=1", "adam_beta2=1: expected a number of at least 0 and below 1"),
    ("seed=-1", "seed=-1: expected a whole number from 0 to 4294967295"),
    ("learning_rate=-1", "learning_rate=-1: expected a number above 0"),
    ("reconstructor_learning_rate=nan", "expected a number above 0"), ("gradient_exchange=fp8", "expected one of fp32"),
])
def test_bad_settings(setting, message):
    with pytest.raises(InputError) as caught:
        TrainingConfig.from_settings([setting])
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("setting", ["stage=reconstructor", "detach_feedback=false", "decoder_gradient=true",
                                     "mixed_precision=fp16"])
def test_what_cannot_be_recorded_is_refused(setting):
    with pytest.raises(InputError, match="cuda_graphs=true"):
        TrainingConfig.from_settings(["cuda_graphs=true", setting])


def test_no_setting_is_nan_infinite_or_of_another_type():
    for field in dataclasses.fields(TrainingConfig):
        values = [None, [1], {}] + [math.nan, math.inf, "1", True] * isinstance(field.default, float)
        for value in values + [1.0, False, 10**400] * (type(field.default) is int):
            with pytest.raises(InputError, match=f"^{field.name}="):
                TrainingConfig(**{field.name: value})
        for text in ("nan", "-inf", "1e999") if type(field.default) is float else ():
            with pytest.raises(InputError, match=f"^--set {field.name}={text}: expected a number"):
                TrainingConfig.from_settings([f"{field.name}={text}"])
