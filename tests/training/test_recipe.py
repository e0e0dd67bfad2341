"""Recipes: several training runs that build on each other."""

import json
import math
import os
import signal
import subprocess
import sys

import pytest
import warm

from ouroboros_lib.cli.main import main
from ouroboros_lib.errors import InputError
from ouroboros_lib.evaluation.ablation import DEFAULT_METHOD
from ouroboros_lib.evaluation.tables import PUBLISHED
from ouroboros_lib.files.processes import began
from ouroboros_lib.plans import Plan
from ouroboros_lib.training import TrainingConfig, recipe
from ouroboros_lib.training.recipe import RECIPES, choose_stages, load_comparisons, load_recipe, run_recipe, spread

QUICK = {"steps": 1, "batch_size": 2, "reconstruction_batch": 1, "objects": 2, "refresh_objects": 2, "novel_views": 1,
         "validation_objects": 1, "checkpoint_every": 0}


def write(path, stages, **record):
    path.write_text(json.dumps({"preset": "tiny", "settings": QUICK, "stages": stages} | record))
    return str(path)


@pytest.mark.parametrize("name", [path.stem for path in RECIPES.glob("*.json") if path.stem != "paper"])
def test_recipes_that_ship_can_be_read(name):
    stages = load_recipe(name)
    assert any("max_minutes" in stage.settings for stage in stages) == (name != "twins")
    assert any(stage.after for stage in stages)


def test_the_papers_recipe_needs_a_start_and_data(tmp_path, capsys):
    (stage,) = load_recipe("paper", start=str(tmp_path), data="renders")
    config = TrainingConfig.from_settings(stage.assignments())
    assert (config.steps, config.learning_rate, config.reconstructor_learning_rate) == (30_000, 1e-5, 1e-5)
    assert config.batch_size * config.accumulation * stage.gpus == 32
    assert (config.image_loss, config.lpips, config.orbit_supervision, config.novel_views) == ("mse", "vgg", 1.0, 4)
    arguments = stage.arguments(tmp_path)
    assert arguments[:9] == ["train", "--preset", "paper", "--out", str(tmp_path / "joint"), "--init", str(tmp_path),
                             "--data", "renders"]
    for given, message in ((["--init", str(tmp_path)], "recipe paper: needs --data DIR"),
                           (["--data", "renders"], "recipe paper: needs --init DIR, what `ouroboros convert svd`")):
        with pytest.raises(SystemExit) as leaving:
            main(["recipe", "paper", "--out", str(tmp_path / "out"), "--show", *given])
        assert leaving.value.code == 2 and message in capsys.readouterr().err
    listing = subprocess.run(warm.command(["ouroboros_lib.training.recipe", "paper", "joint"]),
                             capture_output=True, text=True, check=True).stdout.split()
    assert listing[::2] == ["--set"] * (len(listing) // 2) and listing[1::2] == stage.assignments()


def test_every_row_of_the_ablation_has_the_same_budget_and_start():
    rows = [stage for stage in load_recipe("ablation") if "-seed" in stage.name and not stage.evaluates
            and not stage.name.startswith("single-view")]
    assert len(rows) == 24 and len({stage.name for stage in rows}) == 24
    kinds = {(stage.settings.get("joint", True), stage.settings["feedback"]) for stage in rows}
    assert kinds == {(False, "none"), (True, "none"), (True, "ccm"), (True, "rgb"), (True, "both")}
    differs = {"joint", "feedback", "seed", "coordinate_map", "detach_feedback", "decoder_gradient"}
    shared = [{key: value for key, value in stage.settings.items() if key not in differs} for stage in rows]
    assert all(settings == shared[0] and stage.init == rows[0].init for settings, stage in zip(shared, rows,
                                                                                           strict=True))


def test_chosen_stages_bring_what_they_start_from():
    names = [stage.name for stage in choose_stages(load_recipe("ablation"), "joint-rgb-seed2")]
    assert names == ["multiview", "reconstructor", "joint-rgb-seed2", "evaluate-joint-rgb-seed2"]
    names = [stage.name for stage in choose_stages(load_recipe("ablation"), "joint-rgb,two-stage-seed1")]
    assert set(names[2:]) == {f"{kind}{name}" for kind in ("", "evaluate-")
                              for name in ("two-stage-seed1", *(f"joint-rgb-seed{seed}" for seed in range(3)))}
    for unknown in ("other", "joint-rgb-seed", "oint-rgb"):
        with pytest.raises(InputError, match=f"no stage {unknown}, there are multiview"):
            choose_stages(load_recipe("ablation"), f"two-stage-seed1,{unknown}")


def test_every_comparison_of_the_ablation_is_evaluated():
    """What the recipe compares is what its evaluations write: no label without figures."""
    cells = set()
    for stage in load_recipe("ablation"):
        if stage.evaluates:
            row, options = stage.evaluates.rsplit("-seed", 1)[0], stage.settings
            if options.get("single_view"):
                cells.add(f"{row}:single-view")
                continue
            cells |= {f"{row}:{Plan.parse(plan)}" for plan in options["plan"]}
    published = json.loads(PUBLISHED.read_text())["table 2"]["cells"]
    compared = [cell for first, second, _ in load_comparisons("ablation") for cell in (first, second)]
    for cell in published + compared:
        assert (cell if ":" in cell else f"{cell}:{DEFAULT_METHOD}") in cells


def test_an_evaluation_follows_each_seed_and_is_a_command(tmp_path):
    plan = stages(tmp_path, {"name": "a", "seeds": [0, 1], "evaluate": {"objects": 3, "plan": ["paper", "two-stage"],
                                                                        "geometry": 2, "flip": True}})
    assert [stage.name for stage in plan] == ["a-seed0", "evaluate-a-seed0", "a-seed1", "evaluate-a-seed1"]
    out = tmp_path / "out"
    assert plan[1].after == ["a-seed0"] and plan[1].result(out) == out / "evaluation" / "a-seed0.json"
    assert plan[1].arguments(out) == ["evaluate", "--preset", str(out / "a-seed0" / "pipeline"), "--out",
                                      str(out / "evaluation" / "a-seed0"), "--objects", "3", "--plan",
                                      "paper", "--plan", "two-stage", "--geometry", "2", "--flip"]


BAD = {
    "no such recipe": (None, "neither a recipe"),
    "not JSON": ("{", "not a JSON file"),
    "no stages": (json.dumps({"preset": "tiny"}), "stages: expected a list, got nothing"),
    "unknown key": ([{"name": "a", "gpu": 1}], "not gpu"),
    "no name": ([{"settings": {}}], "name: expected a text, got nothing"),
    "no seeds": ([{"name": "a", "seeds": [0, True]}], r"seeds\[1\]: expected a whole number of at least 0, got True"),
    "no number": (json.dumps({"preset": "tiny", "stages": [], "settings": {"steps": math.nan}}), "NaN is not a finite"),
    "twice": ([{"name": "a"}, {"name": "a"}], "two stages are called a"),
    "successor first": ([{"name": "b", "init": ["a"]}, {"name": "a"}], "b starts from a"),
    "unknown setting": ([{"name": "a", "settings": {"lr": 1}}], "lr=1"),
    "unknown stage": ([{"name": "a", "settings": {"stage": "polish"}}], "polish"),
    "unknown plan": ([{"name": "a", "evaluate": {"plan": ["calm,often=1"]}}], "a, evaluate: plan"),
    "unknown option": ([{"name": "a", "evaluate": {"metric": "psnr"}}], "a, evaluate: metric: no option"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_recipes(tmp_path, name):
    content, message = BAD[name]
    path = tmp_path / "recipe.json"
    if isinstance(content, list):
        write(path, content)
    elif content is not None:
        path.write_text(content)
    with pytest.raises(InputError, match=message):
        load_recipe(str(path))


def stub(monkeypatch, tmp_path, code="pass", together=None):
    """Stages are short programs that note when they start and end, and write the pipeline's index.

    together: {stage: how many processes must have started, in all, before it goes on}."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    program = f"""
import os, pathlib, sys, time
name, folder = sys.argv[1], pathlib.Path({str(tmp_path)!r})
log = open(folder / "events", "a", buffering=1)
print("start", name, os.environ["CUDA_VISIBLE_DEVICES"], os.environ.get("RANK", ""), file=log)
while (folder / "events").read_text().count("start") < {together or {}}.get(name, 0):
    time.sleep(0.02)
{code}
pipeline = folder / "out" / name / "pipeline"
pipeline.mkdir(parents=True, exist_ok=True)
(pipeline / "model_index.json").write_text("")
print("end", name, file=log)
print("fine")
"""
    monkeypatch.setattr(recipe, "_program", lambda stage, out: [sys.executable, "-c", program, stage.name])
    return lambda: (tmp_path / "events").read_text().splitlines()


def stages(path, *entries):
    return load_recipe(write(path / "recipe.json", list(entries)))


def test_side_by_side_on_gpus_of_their_own_and_after_their_predecessors(monkeypatch, tmp_path, capsys):
    events = stub(monkeypatch, tmp_path, together={"a": 2, "b": 2, "c": 4})
    plan = stages(tmp_path, {"name": "a"}, {"name": "b"}, {"name": "c", "init": ["a", "reconstructor=b"], "gpus": 2})
    run_recipe(plan, tmp_path / "out", gpus=2)
    lines = events()
    assert sorted(lines[:2]) == ["start a 0 ", "start b 1 "]
    assert sorted(lines[2:4]) == ["end a", "end b"] and sorted(lines[4:6]) == ["start c 0 0", "start c 1 1"]
    assert "c: 0.0 min, fine" in capsys.readouterr().out
    run_recipe(plan, tmp_path / "out", gpus=2)
    assert events() == lines and capsys.readouterr().out.count("done before") == 3


def test_lpips_that_cannot_be_had_is_said_before_the_first_stage(monkeypatch, tmp_path):
    events = stub(monkeypatch, tmp_path)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "empty"))
    plan = stages(tmp_path, {"name": "a"}, {"name": "b", "init": ["a"], "settings": {"lpips": "vgg"}})
    with pytest.raises(InputError, match=r"LPIPS \(vgg\)"):
        run_recipe(plan, tmp_path / "out", gpus=1)
    assert not (tmp_path / "events").exists()
    plan = stages(tmp_path, {"name": "a"}, {"name": "b", "init": ["a"], "settings": {"lpips": "alex"}})
    run_recipe(plan, tmp_path / "out", gpus=1)
    assert len(events()) == 4


def test_stages_that_share_gpus_are_spread_evenly(monkeypatch, tmp_path):
    events = stub(monkeypatch, tmp_path, together=dict.fromkeys("abcd", 4))
    run_recipe(stages(tmp_path, *({"name": name} for name in "abcde")), tmp_path / "out", gpus=2, per_gpu=2)
    lines = events()
    assert sorted(lines[:4]) == ["start a 0 ", "start b 1 ", "start c 0 ", "start d 1 "]
    (last,) = [line for line in lines if line.startswith("start e")]
    assert last in ("start e 0 ", "start e 1 ") and lines.index(last) > 4  # on the one that is free first


def test_only_gpus_that_were_left_are_used(monkeypatch, tmp_path):
    events = stub(monkeypatch, tmp_path, together={"b": 3})
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3, GPU-5")
    run_recipe(stages(tmp_path, {"name": "a"}, {"name": "b", "init": ["a"], "gpus": 2}), tmp_path / "out", gpus=2)
    lines = events()
    assert lines[0] == "start a 3 " and sorted(lines[2:4]) == ["start b 3 0", "start b GPU-5 1"]
    with pytest.raises(InputError, match="--gpus 3: CUDA_VISIBLE_DEVICES=3, GPU-5 leaves only 2"):
        run_recipe(stages(tmp_path, {"name": "c"}), tmp_path / "out", gpus=3)
    assert events() == lines


def test_all_rows_have_their_first_seed_before_the_second(tmp_path):
    plan = stages(tmp_path, {"name": "base"}, {"name": "a", "seeds": [0, 1], "init": ["base"]},
                  {"name": "b", "seeds": [4, 5]})
    assert [stage.name for stage in plan] == ["base", "a-seed0", "b-seed4", "a-seed1", "b-seed5"]


def test_settings_of_all_stages_or_of_one_are_changed(tmp_path):
    path = write(tmp_path / "recipe.json", [{"name": "a", "settings": {"steps": 5}}, {"name": "b", "seeds": [0, 1]}])
    plan = load_recipe(path, changes=["steps=7", "b.learning_rate=1e-3", "swatches=my.folder"])
    assert [stage.settings["steps"] for stage in plan] == ["7"] * 3
    assert [stage.settings.get("learning_rate") for stage in plan] == [None, "1e-3", "1e-3"]
    assert all("swatches=my.folder" in stage.assignments() for stage in plan)
    for change, message in (("c.steps=1", "--set c.steps=1: .* no stage"), ("pace=1", "pace")):
        with pytest.raises(InputError, match=message):
            load_recipe(path, changes=[change])


def test_what_is_evaluated_is_measured_on_other_folders_too(tmp_path):
    path = write(tmp_path / "recipe.json", [{"name": "a", "evaluate": {"objects": 3, "geometry": 2, "batch": 4}},
                                            {"name": "b", "evaluate": {"single_view": True}}])
    plan = load_recipe(path, tests=["renders/scans"])
    assert [stage.name for stage in plan] == ["a", "evaluate-a", "evaluate-a-scans", "b", "evaluate-b",
                                             "evaluate-b-scans"]
    assert plan[2].after == ["a"] and plan[2].result(tmp_path) == tmp_path / "evaluation-scans" / "a.json"
    assert plan[2].arguments(tmp_path) == ["evaluate", "--preset", str(tmp_path / "a" / "pipeline"), "--out",
                                           str(tmp_path / "evaluation-scans" / "a"), "--batch", "4", "--data",
                                           "renders/scans"]


def spread_over(tmp_path, gpus, settings):
    """A stage's GPUs, and what becomes of its settings, on so many."""
    (stage,) = stages(tmp_path, {"name": "a", "gpus": 4, "settings": settings})
    before = dict(stage.settings)
    stage.spread_over(gpus)
    return stage.gpus, {key: value for key, value in stage.settings.items() if before.get(key) != value}


def test_fewer_gpus_accumulate_what_the_others_would_have_taken(tmp_path):
    assert spread_over(tmp_path, 4, {"accumulation": 2, "max_minutes": 9}) == (4, {})
    assert spread_over(tmp_path, 2, {"accumulation": 2, "max_minutes": 9}) == (2, {"accumulation": 4,
                                                                                   "max_minutes": 18})
    three = spread_over(tmp_path, 3, {"stage": "multiview", "batch_size": 6})
    assert three == (3, {"accumulation": 4, "batch_size": 2})


def test_no_more_gpus_than_can_share_a_batch(tmp_path):
    for gpus, settings, used in ((3, {"batch_size": 2}, 2), (8, {"batch_size": 3}, 6), (7, {"accumulation": 2}, 4),
                                 (8, {"stage": "joint", "batch_size": 4, "reconstruction_batch": 3}, 4)):
        assert spread_over(tmp_path, gpus, {"stage": "multiview", "reconstruction_batch": 6} | settings)[0] == used


def test_more_gpus_share_out_what_was_accumulated_then_the_batch(tmp_path):
    assert spread_over(tmp_path, 8, {"accumulation": 4, "batch_size": 1}) == (8, {"accumulation": 2})
    joint = {"stage": "joint", "accumulation": 2, "batch_size": 6, "reconstruction_batch": 2, "max_minutes": 9}
    assert spread_over(tmp_path, 16, joint) == (16, {"accumulation": 1, "batch_size": 3, "reconstruction_batch": 1,
                                                     "max_minutes": 2.25})
    plan = stages(tmp_path, {"name": "a", "settings": {"max_minutes": 9}}, *(
        {"name": name, "gpus": gpus, "settings": {"stage": "multiview"}} for name, gpus in (("b", 2), ("c", 4))))
    spread(plan, 11)
    assert [stage.gpus for stage in plan] == [1, 4, 8] and plan[0].settings["max_minutes"] == 9


@pytest.mark.parametrize("gpus", [1, 2, 4, 8])
def test_the_shipped_recipe_has_one_global_batch_and_as_many_gpu_minutes_on_any_number(gpus):
    def totals(plan):
        found = []
        for stage in (stage for stage in plan if not stage.evaluates):
            config = TrainingConfig.from_settings(stage.assignments())
            batches = stage.gpus * config.accumulation
            found.append((batches * config.batch_size, stage.gpus * config.max_minutes,
                          batches * config.reconstruction_batch if config.stage == "joint" else 0))
        return found

    plan = load_recipe("small")
    expected = totals(plan)
    spread(plan, gpus)
    assert totals(plan) == expected and max(stage.gpus for stage in plan) == gpus


@pytest.mark.parametrize("recipe, fault", [
    ({"stages": []}, "stages: there are none"),
    ({"stages": [{"name": "a"}, {"name": "b", "seeds": []}]}, "b: seeds: there are none"),
    ({"stages": [{"name": "a"}], "setings": {}}, "no recipe has setings"),
    ({"stages": [{"name": "../a"}]}, "a stage is called '../a'; its name becomes a folder's"),
    ({"stages": [{"name": ""}]}, "a stage is called ''"),
    ({"stages": [{"name": "a", "settings": {"steps": 1e6}}]}, "a: .*steps=1000000.0: expected"),
])
def test_what_a_recipe_cannot_say(tmp_path, recipe, fault):
    with pytest.raises(InputError, match=rf"recipe\.json: {fault}"):
        load_recipe(write(tmp_path / "recipe.json", **recipe))


def test_one_at_a_time_without_gpus(monkeypatch, tmp_path):
    events = stub(monkeypatch, tmp_path)
    run_recipe(stages(tmp_path, {"name": "a"}, {"name": "b", "gpus": 2}), tmp_path / "out", gpus=0)
    assert events() == ["start a  ", "end a", "start b  ", "end b"]


def test_a_failure_stops_the_others_and_says_where_to_look(monkeypatch, tmp_path):
    events = stub(monkeypatch, tmp_path, "if name == 'a': sys.exit('out of memory')\ntime.sleep(30)", {"a": 2})
    with pytest.raises(InputError, match=r"a failed: out of memory; the whole story is in .*a\.log"):
        run_recipe(stages(tmp_path, {"name": "a"}, {"name": "b"}), tmp_path / "out", gpus=2)
    assert sorted(events()) == ["start a 0 ", "start b 1 "]


def test_a_stage_that_left_objects_out_is_done(monkeypatch, tmp_path):
    events = stub(monkeypatch, tmp_path, "import atexit; atexit.register(os._exit, 1)")
    run_recipe(stages(tmp_path, {"name": "a"}, {"name": "b", "init": ["a"]}), tmp_path / "out", gpus=0)
    assert [event for event in events() if event.startswith("start")] == ["start a  ", "start b  "]


def test_sigterm_stops_the_stages(monkeypatch, tmp_path):
    """Once both are at work, one of them has it sent."""
    events = stub(monkeypatch, tmp_path, f"""
open(folder / "pids", "a").write(f"{{os.getpid()}}\\n")
while (folder / "pids").read_text().count("\\n") < 2:
    time.sleep(0.02)
if name == "b":
    os.kill({os.getpid()}, {signal.SIGTERM:d})
time.sleep(100)""")
    with pytest.raises(SystemExit):
        run_recipe(stages(tmp_path, {"name": "a"}, {"name": "b"}), tmp_path / "out", gpus=2)
    assert sorted(events()) == ["start a 0 ", "start b 1 "]
    assert [began(int(pid)) for pid in (tmp_path / "pids").read_text().split()] == [None, None]


def test_from_the_command_line(tmp_path, capsys, monkeypatch):
    name = write(tmp_path / "recipe.json", [
        {"name": "lone"}, {"name": "polished", "init": ["autoencoder=lone"], "settings": {"train_encoder": False}}],
                 settings=QUICK | {"stage": "autoencoder"})
    programs = [recipe.program, lambda arguments: warm.command(["recipe_at_once", *arguments])]
    monkeypatch.setattr(recipe, "program", lambda arguments: programs.pop(0)(arguments))  # one from nothing
    with pytest.raises(SystemExit) as leaving:
        main(["recipe", name, "--out", str(tmp_path / "out"), "--gpus", "0"])
    assert leaving.value.code == 0, capsys.readouterr().err
    assert (tmp_path / "out" / "polished" / "pipeline" / "model_index.json").is_file()
    text = capsys.readouterr().out
    assert f"--init autoencoder={tmp_path / 'out' / 'lone' / 'pipeline'}" in text and '"psnr"' in text
    with pytest.raises(SystemExit) as leaving:
        main(["recipe", "nothing", "--out", str(tmp_path / "other")])
    assert leaving.value.code == 2 and not (tmp_path / "other").exists()
    known = ", ".join(sorted(path.stem for path in RECIPES.glob("*.json")))
    assert capsys.readouterr().err == f"error: nothing: neither a recipe ({known}) nor a file\n"


def test_an_ablation_from_training_to_tables(tmp_path, capsys, monkeypatch):
    """Two rows with one seed each, trained for one step, evaluated and compared by one command."""
    options = {"objects": 2, "steps": 1, "device": "cpu", "lpips": "off"}
    name = write(tmp_path / "recipe.json", [
        {"name": "two-stage", "seeds": [0], "settings": {"joint": False, "feedback": "none"},
         "evaluate": {"plan": ["two-stage"]}},
        {"name": "joint-both", "seeds": [0], "evaluate": {"plan": ["paper", "two-stage"]}}],
                 settings=QUICK | {"stage": "joint"}, evaluate=options,
                 compare=[["joint-both:paper", "two-stage", "all"],
                          ["joint:other", "two-stage", "not there"]])
    monkeypatch.setattr(recipe, "_program", lambda stage, out: warm.command(["ouroboros_lib", *stage.arguments(out)]))
    with pytest.raises(SystemExit) as leaving:
        main(["recipe", name, "--out", str(tmp_path / "out"), "--gpus", "0"])
    output = capsys.readouterr()
    assert leaving.value.code == 0, output.err
    record = json.loads((tmp_path / "out" / "ablation.json").read_text())
    assert [entry["label"] for entry in record["comparisons"]] == ["all"]
    assert record["missing"] == ["joint:other"]
    assert {name for name in record["cells"] if "G-clean" not in name} == {
        "two-stage:two-stage", "joint-both:paper", "joint-both:two-stage"}
    assert "Not measured yet: joint:other" in output.out
