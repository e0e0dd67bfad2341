"""docs/paper.md: the column `ours` of the table of deviations is what the recipe `paper` trains with."""

import dataclasses
import re
from pathlib import Path

import pytest

from ouroboros_lib.paper.released import RELEASED_AZIMUTHS
from ouroboros_lib.training.config import TrainingConfig
from ouroboros_lib.training.recipe import load_recipe

PAGE = Path(__file__).parents[2] / "docs" / "paper.md"


def ours() -> dict[str, str]:
    """The code spans of the column, as key and value."""
    table = PAGE.read_text().split("## Paper, released code, and the recipe `paper`")[1].split("\n## ")[0]
    rows = [line.strip("|").split(" | ") for line in table.splitlines() if line.startswith("| ")][1:]
    assert all(len(row) == 5 for row in rows)
    spans = [span.partition("=") for row in rows for span in re.findall(r"`([a-z_0-9]+=[^`]*)`", row[3])]
    assert len(spans) > 20 and len({key for key, _, _ in spans}) == len(spans)
    return {key: value for key, _, value in spans}


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    (stage,) = load_recipe("paper", start=str(tmp_path_factory.mktemp("start")), data="renders")
    return stage, TrainingConfig.from_settings(stage.assignments())


def test_the_table_says_what_the_recipe_does(recipe):
    stage, config = recipe
    for key, text in ours().items():
        value = getattr(config, key)
        assert str(value).lower() == text or (isinstance(value, float) and value == float(text)), (key, text, value)
    assert stage.gpus == 8 and config.orbit_views == ""


def test_the_table_names_every_setting_in_which_the_recipe_differs_from_the_small_one(recipe):
    """What only costs memory or time is not a deviation."""
    housekeeping = {"gradient_checkpointing", "ema_device", "ema_every", "compile", "cuda_graphs", "workers", "shuffle",
                    "log_every", "checkpoint_every", "validate_every", "validation_objects", "reconstruction_batch"}
    differs = {field.name for field in dataclasses.fields(TrainingConfig)
               if getattr(recipe[1], field.name) != field.default}
    assert differs - housekeeping <= set(ours())
    assert RELEASED_AZIMUTHS[-1] == 337.5  # the table's row about the last view
