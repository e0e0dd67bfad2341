"""Settings of a run, from text, and those that cannot be."""

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
    ("steps=many", "--set steps=many: 'many' is not a int"),
    ("steps=2.5", "'2.5' is not a int"),
    ("learning_rate=fast", "'fast' is not a float"),
    ("joint=maybe", "'maybe' is not a bool"),
    ("steps=0", "steps=0: must be at least 1"),
    ("batch_size=-1", "batch_size=-1: must be at least 1"),
    ("stage=everything", "stage='everything': expected one of autoencoder, reconstructor, multiview, joint"),
    ("feedback=depth", "unknown feedback 'depth': expected both, none, or some of rgb, ccm joined by +"),
    ("mixed_precision=int4", "mixed_precision='int4': expected one of no, fp16, bf16"),
    ("condition_dropout=1.5", "condition_dropout=1.5: must lie between 0 and 1"),
    ("self_conditioning_probability=nan", "must lie between 0 and 1"),
    ("accumulation=0", "accumulation=0: must be at least 1"), ("ema_device=gpu", "expected one of same, cpu"),
    ("lpips=squeeze", "expected one of off, alex, vgg"), ("image_loss=l2", "expected one of mixed, mse, l1"),
    ("schedule=linear", "expected one of cosine, constant"), ("workers=-1", "workers=-1: must not be negative"),
    ("orbit_supervision=2", "orbit_supervision=2.0: must lie between 0 and 1"),
    ("adam_beta2=1", "adam_beta2=1.0: must be at least 0 and below 1"),
    ("seed=-1", "seed=-1: must lie between 0 and"),
    ("learning_rate=-1", "learning_rate=-1.0: must be a positive number"),
    ("reconstructor_learning_rate=nan", "must be a positive number"), ("gradient_exchange=fp8", "expected one of fp32"),
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
