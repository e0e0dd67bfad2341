"""Rows of an ablation against each other, from files to tables."""

import csv
import json

import pytest

from ouroboros_lib.cli.main import main
from ouroboros_lib.errors import InputError
from ouroboros_lib.evaluation.ablation import collect, verdict
from ouroboros_lib.evaluation.rows import ImageRow, ShapeRow
from ouroboros_lib.evaluation.tables import SUFFIXES, paper_tables, render

OBJECTS, VIEWS = range(20), 4


def write(folder, row, seed, better, method="two-stage", ripple=0.0, lpips=False):
    """An evaluation in which every picture of object n has 20 + n / 10 + better dB, renders one less; LPIPS, if
    measured, is a hundredth of what the PSNR lacks to 30 dB."""
    def value(kind, number):
        return 20 + number / 10 + better - (kind == "render") + ripple * (-1) ** number

    rows = [("p", method, 0, number, view, int(view == 0), kind, value(kind, number), 0.9,
             (30 - value(kind, number)) / 100 if lpips else "", "")
            for number in OBJECTS for kind, count in (("multiview", VIEWS), ("render", VIEWS + 2))
            for view in range(count)]
    path = folder / f"{row}-seed{seed}.csv"
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([ImageRow._fields, *rows])
    record = {"command": "c", "date": "d", "commit": "x", "device": "cpu", "minutes": 1,
              "settings": {"num_views": VIEWS}}
    path.with_suffix(".json").write_text(json.dumps(record))


@pytest.fixture
def evaluations(tmp_path):
    folder = tmp_path / "evaluation"
    folder.mkdir()
    for seed in range(3):
        write(folder, "two-stage", seed, 0.0)
        write(folder, "joint", seed, 0.5 + 0.1 * seed)
        write(folder, "joint-both", seed, 0.0, "paper", ripple=1.0)
    return folder


def test_differences_are_paired_and_judged(evaluations, tmp_path):
    record = collect(evaluations, tmp_path / "ablation", [
        ["joint", "two-stage", "clear"], ["two-stage", "joint", "turned round"],
        ["joint-both:paper", "two-stage", "nothing but ripple"]])
    clear, turned, ripple = (entry["views 1+"] for entry in record["comparisons"])
    assert clear["mean"] == pytest.approx(0.6) and 0.5 <= clear["low"] < clear["high"] <= 0.7
    assert (clear["verdict"], turned["verdict"], ripple["verdict"]) == ("better", "worse", "not separable")
    assert turned["mean"] == -clear["mean"] and ripple["mean"] == 0 and ripple["low"] < -0.2
    cell = record["cells"]["joint:two-stage"]
    assert cell["objects"] == 20 and cell["training seeds"] == [0, 1, 2]
    assert cell["difference"]["psnr"]["mean"] == 1 and "lpips" not in cell["views 1+"]
    assert cell["3D novel"]["psnr"]["mean"] == pytest.approx(20 + 0.95 + 0.6 - 1)
    assert record["made of"]["joint-seed1.csv"]["commit"] == "x"


def test_objects_of_a_folder_are_paired_by_name(evaluations, tmp_path):
    expected = collect(evaluations, tmp_path / "numbers", [["joint", "two-stage", "clear"]])["comparisons"][0]
    for path in evaluations.glob("*.csv"):
        lines = [line.split(",") for line in path.read_text().splitlines()]
        path.write_text("\n".join(",".join([*line[:3], line[3] if line[3] == "object" else f"mug{int(line[3]):02}",
                                            *line[4:]]) for line in lines))
        record = json.loads(path.with_suffix(".json").read_text())
        record |= {"settings": {}, "protocol": {"primary_views": list(range(1, VIEWS))}}
        path.with_suffix(".json").write_text(json.dumps(record))
    assert collect(evaluations, tmp_path / "names", [["joint", "two-stage", "clear"]])["comparisons"] == [expected]


def test_shapes_are_compared_where_they_were_measured(evaluations, tmp_path):
    def measure(row, seed, method, iou, chamfer, shift=0.0):  # shift: of the second noise's IoU
        with open(evaluations / f"{row}-seed{seed}_geometry.csv", "w", newline="") as file:
            csv.writer(file).writerows([ShapeRow._fields, *(
                ("p", method, noise, n, 0.1, 0.1, chamfer, 0.5 + 0.01 * (-1) ** n * seed, iou + n / 100 + noise * shift)
                for noise in (0, 1) for n in range(4))])

    for seed in (1, 2):
        measure("joint", seed, "two-stage", 0.35, 0.02, shift=0.1)
    for seed in (0, 1):
        measure("two-stage", seed, "two-stage", 0.5, 0.03)
    record = collect(evaluations, tmp_path / "ablation", [
        ["joint", "two-stage", "shapes"], ["joint-both:paper", "two-stage", "not measured"]])
    assert "geometry" not in record["comparisons"][1]
    shape = record["comparisons"][0]["geometry"]
    assert (shape["objects"], shape["training seeds"]) == (4, [1])
    assert shape["iou"]["mean"] == pytest.approx(-0.1) and shape["iou"]["verdict"] == "worse"
    assert shape["chamfer"]["mean"] == pytest.approx(-0.01) and shape["chamfer"]["verdict"] == "better"
    assert shape["f_score"]["verdict"] == "not separable"
    table = paper_tables(tmp_path)[3]
    assert table.title == "Shapes" and table.rows[0][:3] == ["shapes", "4", "1"] and len(table.rows) == 1
    assert table.rows[0][3].startswith("-0.0100 [") and table.rows[0][5].endswith("worse")


def test_lpips_is_compared_where_it_was_measured(evaluations, tmp_path):
    for seed in (1, 2):
        write(evaluations, "joint", seed, 0.5, lpips=True)
    for seed in (0, 1):
        write(evaluations, "two-stage", seed, 0.0, lpips=True)
    record = collect(evaluations, tmp_path / "ablation", [
        ["joint", "two-stage", "seen"], ["joint-both:paper", "two-stage", "not measured"]])
    seen, other = record["comparisons"]
    assert seen["training seeds"] == [0, 1, 2] and seen["lpips"]["training seeds"] == [1] and "lpips" not in other
    assert seen["lpips"]["3D views 1+"] == {"mean": -0.005, "low": -0.005, "high": -0.005, "verdict": "better"}
    table = paper_tables(tmp_path)[3]
    assert table.name == "comparisons_by_lpips" and table.rows == [
        ["seen", "1", *["-0.0050 [-0.0050, -0.0050] better"] * 3, "n/a", "ablation.json"]]


def test_only_seeds_and_objects_that_both_have_are_compared(evaluations, tmp_path):
    (evaluations / "two-stage-seed1.csv").unlink()
    record = collect(evaluations, tmp_path / "ablation", [["joint", "two-stage", ""]])
    assert record["comparisons"][0]["training seeds"] == [0, 2]
    assert record["comparisons"][0]["views 1+"]["mean"] == pytest.approx(0.6)


def test_smaller_differences_are_better():
    assert verdict({"mean": -1, "low": -2, "high": -0.5}, smaller_is_better=True) == "better"
    assert verdict({"mean": 1, "low": 0.5, "high": 2}, smaller_is_better=True) == "worse"


@pytest.mark.parametrize("high", [float("nan"), float("inf")])
def test_what_has_no_interval_cannot_be_told_apart(high):
    assert verdict({"mean": high, "low": 0.1, "high": high}, smaller_is_better=True) == "not separable"


def test_bad_folders(tmp_path, evaluations):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no evaluations"):
        collect(tmp_path / "empty", tmp_path / "ablation", [])
    (evaluations / "joint-seed0.json").unlink()
    with pytest.raises(InputError, match="joint-seed0.json: no such file"):
        collect(evaluations, tmp_path / "ablation", [])
    assert not (tmp_path / "ablation.json").exists()


def test_published_and_measured_values_stand_in_columns_of_their_own(evaluations, tmp_path):
    before = paper_tables(tmp_path)
    assert len(before) == 2 and before[1].rows[0][9:] == ["n/a"] * 7
    collect(evaluations, tmp_path / "ablation", [["joint", "two-stage", "clear"]])
    first, second, third = paper_tables(tmp_path)
    assert first.rows == before[0].rows  # ablation.json is of table 2 alone
    assert [row[:9] for row in second.rows] == [row[:9] for row in before[1].rows]
    assert second.rows[1][9].startswith("20.55 [") and second.rows[3][9] == "n/a"
    assert third.rows[0][:2] == ["clear", "3"] and third.rows[0][2].startswith("+0.60 [")


def test_comparisons_of_other_starts_stand_below_with_their_file(evaluations, tmp_path):
    collect(evaluations, tmp_path / "ablation", [["joint", "two-stage", "a"], ["joint-rgb", "joint-ccm", "b"]])
    collect(evaluations, tmp_path / "ablation_again", [["two-stage", "joint", "c"], ["joint-rgb", "joint", "d"]])
    table = paper_tables(tmp_path)[2]
    assert [[row[0], row[-1]] for row in table.rows] == [["a", "ablation.json"], ["c", "ablation_again.json"]]
    assert table.notes[-1] == "Not measured yet: joint-rgb:two-stage."  # joint-ccm is not missing in both


@pytest.mark.parametrize("style", SUFFIXES)
def test_every_format_holds_every_cell(tmp_path, style):
    table = paper_tables(tmp_path)[0]
    text = render(table, style)
    for cell in (cell for row in table.rows for cell in row):
        assert (cell.removesuffix(" (a)") if style == "csv" else cell) in text
    assert (style == "csv") != ("Wen et al." in text)


def test_tables_from_the_command_line(tmp_path, capsys):
    def run(*arguments):
        with pytest.raises(SystemExit) as leaving:
            main(["tables", *map(str, arguments)])
        return leaving.value.code, capsys.readouterr()

    code, output = run("--results", tmp_path)
    assert code == 0 and "21.761" in output.out and "Nothing measured yet" in output.out
    code, output = run("--results", tmp_path, "--out", tmp_path / "new" / "tables")
    assert code == 0 and r"\toprule" in (tmp_path / "new" / "tables" / "table_2.tex").read_text()
    assert run("--results", tmp_path / "nowhere")[0] == 2
    assert run("--results", tmp_path, "--out", __file__)[0] == 2
    (tmp_path / "ablation.json").write_text("{")
    code, output = run("--results", tmp_path)
    assert code == 1 and "skipped: " in output.err and "ablation.json: not a JSON file" in output.err
    assert "21.761" in output.out
