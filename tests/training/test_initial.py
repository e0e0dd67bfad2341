"""Where a run starts, and what it refuses."""

import pytest
import torch
from training_inputs import quick_narrow

from ouroboros_lib.cameras import evenly_spaced_orbit
from ouroboros_lib.errors import InputError
from ouroboros_lib.models.elevation import ElevationEstimator
from ouroboros_lib.models.feedback import feedback_names
from ouroboros_lib.models.multiview import MultiviewUNet
from ouroboros_lib.paper.released import ReleasedPipeline
from ouroboros_lib.pipeline import Ouroboros3DPipeline
from ouroboros_lib.training import TrainingConfig
from ouroboros_lib.training.initial import initial_pipeline, save_pipeline


def test_init_replaces_components_and_later_ones_win(tiny, tmp_path):
    save_pipeline(tiny, tmp_path / "a")
    b = Ouroboros3DPipeline.from_preset("tiny", seed=5)
    save_pipeline(b, tmp_path / "b")
    start = initial_pipeline("tiny", [str(tmp_path / "a"), f"multiview={tmp_path / 'b'}"], TrainingConfig())
    for name, source in (("autoencoder", tiny), ("multiview", b), ("reconstructor", tiny)):
        state = getattr(start, name).state_dict()
        for key, value in getattr(source, name).state_dict().items():
            assert torch.equal(state[key], value.half().float()), (name, key)


def test_what_estimates_elevations_goes_along(tiny, picture, tmp_path):
    tiny.register_modules(elevation=ElevationEstimator().eval())
    save_pipeline(tiny, tmp_path / "with")
    without = Ouroboros3DPipeline.from_preset("tiny", seed=5)
    save_pipeline(without, tmp_path / "without")
    with_it, other = str(tmp_path / "with"), str(tmp_path / "without")
    for init in ([with_it], [other, f"elevation={with_it}"], [f"elevation={with_it}", f"multiview={other}"]):
        save_pipeline(initial_pipeline("tiny", init, TrainingConfig()), tmp_path / "after")
        after = Ouroboros3DPipeline.from_pretrained(tmp_path / "after")
        assert torch.allclose(after.estimate_elevation(picture), tiny.estimate_elevation(picture), atol=0.05)
    for init in ([other], [with_it, other], [f"multiview={with_it}"]):
        assert initial_pipeline("tiny", init, TrainingConfig()).elevation is None


@torch.no_grad()
@pytest.mark.parametrize("before, after", [("none", "both"), ("both", "rgb"), ("both", "none")])
def test_f_takes_its_weights_to_other_feedback(tiny, tmp_path, perturb, before, after):
    tiny.register_modules(multiview=perturb(MultiviewUNet.from_config(tiny.multiview.config, feedback=before)))
    save_pipeline(tiny, tmp_path / "a")
    start = initial_pipeline("tiny", [str(tmp_path / "a")], TrainingConfig(feedback=after)).multiview
    assert tuple(start.feedback_encoders) == feedback_names(after) and start.config.feedback == after
    state, old = start.state_dict(), tiny.multiview.state_dict()
    assert all(torch.equal(state[key], old[key].half().float()) for key in state.keys() & old.keys())
    assert state.keys() - old.keys() == {key for key in state if before == "none" and "feedback_encoders" in key}
    if before == "none":  # new encoders start at zero
        assert all(not value.any() for key, value in state.items() if "feedback_encoders" in key and ".outs." in key)


@pytest.mark.parametrize(("settings", "level"), [
    ({"stage": "reconstructor"}, 0.002), ({"joint": False, "feedback": "none"}, 0.002), ({"stage": "joint"}, 5.0),
    ({"stage": "multiview"}, 0.002)])
def test_a_g_that_has_seen_clean_views_only_gets_no_other_noise_level(tiny, picture, tmp_path, settings, level):
    """Levels it has never met would make two stages look worse than they are. F alone leaves G as it was."""
    tiny.register_to_config(reconstructor_sigma_max=0.002)
    save_pipeline(tiny, tmp_path / "before")
    save_pipeline(initial_pipeline("tiny", [str(tmp_path / "before")], TrainingConfig(**settings)), tmp_path / "after")
    pipeline = Ouroboros3DPipeline.from_pretrained(tmp_path / "after")
    levels = []
    monitor = pipeline.reconstructor.register_forward_pre_hook(lambda module, arguments: levels.append(arguments[2]))
    pipeline.reconstruct(picture[:, None].expand(-1, pipeline.num_views, -1, -1, -1),
                         evenly_spaced_orbit(pipeline.num_views, torch.tensor([10.0])), torch.tensor([5.0]))
    monitor.remove()
    assert torch.allclose(levels[0].exp() ** 4, torch.tensor(level))


def test_the_attention_of_a_new_f_can_be_chosen(tiny, tmp_path):
    start = initial_pipeline("tiny", [], TrainingConfig(stage="multiview", view_attention="factorised"))
    assert start.multiview.config.view_attention == "factorised"
    save_pipeline(tiny, tmp_path / "joint")
    with pytest.raises(InputError, match="the F of --init has joint attention"):
        initial_pipeline("tiny", [str(tmp_path / "joint")], TrainingConfig(view_attention="factorised"))


@pytest.mark.parametrize("entry, message", [
    ("decoder={}", "unknown component 'decoder', expected autoencoder, multiview, reconstructor or elevation"),
    ("multiview={}/missing", "missing: no such folder"),
    ("{}", "no model_index.json in it"),
])
def test_bad_init(tmp_path, entry, message):
    with pytest.raises(InputError, match=message):
        initial_pipeline("tiny", [entry.format(tmp_path)], TrainingConfig())


def test_init_of_another_size(tiny, tmp_path):
    """A model made for another image size would fail only later, deep inside."""
    tiny.multiview.register_to_config(image_size=64)
    save_pipeline(tiny, tmp_path / "a")
    with pytest.raises(InputError, match="multiview is made for pictures of 64 pixels a side, the pipeline for 32"):
        initial_pipeline("tiny", [str(tmp_path / "a")], TrainingConfig())


def test_a_wider_model_keeps_its_width_and_says_so(tiny, tmp_path, capsys):
    old = tiny.multiview
    wide = MultiviewUNet.from_config(old.config, hidden_channels=[2 * width for width in old.config.channels])
    tiny.register_modules(multiview=wide)
    save_pipeline(tiny, tmp_path / "wide")
    start = initial_pipeline("tiny", [f"multiview={tmp_path / 'wide'}"], TrainingConfig())
    assert list(start.multiview.config.hidden_channels) == list(wide.config.hidden_channels)
    assert "its multiview keeps its 1.61 million parameters; the preset's has 1.01" in capsys.readouterr().err


def test_a_run_starts_from_a_whole_folder_with_its_image_encoder(narrow_folder):
    source = Ouroboros3DPipeline.from_pretrained(narrow_folder)
    pipeline = initial_pipeline("narrow", [str(narrow_folder)], quick_narrow(novel_views=1))
    for name in ("autoencoder", "multiview", "reconstructor", "image_encoder"):
        state = getattr(pipeline, name).state_dict()
        assert all(torch.equal(state[key], value) for key, value in getattr(source, name).state_dict().items()), name
    assert pipeline.config.reconstructor_sigma_max is None


@pytest.mark.parametrize("settings, message", [
    ({"stage": "autoencoder"}, "stage=autoencoder: preset narrow keeps SVD's autoencoder as it is"),
    ({"view_attention": "joint"}, "view_attention=joint: preset narrow has SVD's layers and no choice"),
    ({"condition_dropout": 0.4}, "condition_dropout=0.4: three such shares"),
])
def test_settings_that_svd_does_not_have(settings, message):
    with pytest.raises(InputError, match=message):
        initial_pipeline("narrow", [], quick_narrow(**{"novel_views": 1} | settings))


def test_settings_that_only_svd_has():
    with pytest.raises(InputError, match="gradient_checkpointing: preset tiny has no layers for it"):
        initial_pipeline("tiny", [], quick_narrow(gradient_checkpointing=True, novel_views=1))


def test_renders_must_be_compared_with_some_view():
    with pytest.raises(InputError, match="leave no view to compare renders with, of 8 in the orbit"):
        initial_pipeline("narrow", [], quick_narrow(orbit_supervision=0.1, novel_views=0))
    with pytest.raises(InputError, match="leave no view to compare renders with, of 4 in the orbit"):
        initial_pipeline("tiny", [], quick_narrow(orbit_supervision=0.2, novel_views=0))


def test_foreign_starts_are_refused(narrow_folder, tmp_path):
    small = Ouroboros3DPipeline.from_preset("tiny")
    save_pipeline(small, tmp_path / "tiny")
    with pytest.raises(InputError, match="its autoencoder is a Autoencoder, the preset has a SVDAutoencoder"):
        initial_pipeline("narrow", [str(tmp_path / "tiny")], quick_narrow())
    pipeline = Ouroboros3DPipeline.from_pretrained(narrow_folder)
    ReleasedPipeline(**pipeline.components, image_size=64).save_pretrained(tmp_path / "released")
    with pytest.raises(InputError, match="is the published checkpoint, whose F knows the released code's cameras only"):
        initial_pipeline("narrow", [str(tmp_path / "released")], quick_narrow())


def test_a_network_for_elevations_that_is_asked_for_has_to_be_there(tiny, tmp_path):
    save_pipeline(tiny, tmp_path / "without")
    with pytest.raises(InputError, match=r"^--init elevation=.*: has no network that estimates elevations$"):
        initial_pipeline("tiny", [f"elevation={tmp_path / 'without'}"], TrainingConfig())
