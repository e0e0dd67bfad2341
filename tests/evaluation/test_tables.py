"""Table 1: what was published, and what the evaluations in a folder measured, in columns and lines of their own."""

import csv
import io
import json
import re

import numpy as np
import pytest

from ouroboros_lib.cli.main import main
from ouroboros_lib.errors import InputError
from ouroboros_lib.evaluation.rows import ImageRow, read_rows, write_rows
from ouroboros_lib.evaluation.tables import PUBLISHED, paper_tables, render

PRIMARY = [1, 2]


def save(folder, name, protocol, scores, lpips="", **settings):
    """An evaluation: scores by (method, kind) -> (objects, 4 views) of PSNR, view 0 the input and view 3 novel."""
    rows = [(protocol, method, 0, f"thing{o}", v, int(v == 0), kind, value, value / 100, lpips, "", "")
            for (method, kind), table in scores.items() for o, values in enumerate(table)
            for v, value in enumerate(values)]
    write_rows(folder / f"{name}.csv", ImageRow._fields, rows)
    record = {"command": f"ouroboros evaluate --out {name}", "settings": settings, "summary": {}}
    if "method" in settings:
        record["protocol"] = {"primary_views": PRIMARY}
    (folder / f"{name}.json").write_text(json.dumps(record))


@pytest.fixture
def results(tmp_path):
    views, renders = np.array([[90.0, 20, 24, 5], [90, 30, 34, 5]]), np.array([[80.0, 10, 14, 5], [80, 12, 16, 5]])
    save(tmp_path, "ours", "ouroboros-orbit-v1-256-all", {("paper", "multiview"): views,
                                                          ("paper", "render"): renders,
                                                          ("paper", "self-consistency"): views},
         method="ours", preset="small")
    save(tmp_path, "lgm", "released-v1-512", {("splat-LGM", "render"): renders}, lpips=0.25, method="splat-LGM")
    save(tmp_path, "lgm_aligned", "released-v1-512", {("splat-LGM-aligned-scale", "render"): renders + 1},
         method="splat-LGM")
    save(tmp_path, "heldout", "procedural-test-2", {("autoencoder", "autoencoder"): views, ("G-clean", "render"): views,
                                                    ("two-stage", "render"): renders}, split="test", num_views=3)
    return tmp_path


def lines(table):
    return [dict(zip(table.columns, row, strict=True)) for row in table.rows]


def test_measured_rows_by_hand(results):
    found = {(line["file"], line["task"]): line for line in lines(paper_tables(results)[0]) if line["file"]}
    assert set(found) == {("ours", "image to multi-view"), ("ours", "image to 3D"), ("lgm", "image to 3D"),
                          ("lgm_aligned", "image to 3D"), ("heldout", "image to 3D")}
    ours = found["ours", "image to multi-view"]
    assert ours["method"] == "small: paper" and ours["pixels"] == "256" and ours["n"] == "2"
    assert ours["protocol"] == "ouroboros-orbit-v1-256-all"
    assert ours["measured PSNR"] == "27.00 [22.00, 32.00]"  # objects of 22 and 32: views 1 and 2 of each
    assert ours["measured SSIM"] == "0.2700 [0.2200, 0.3200]" and ours["measured LPIPS"] == "n/a"
    assert ours["PSNR"] == ours["SSIM"] == ours["LPIPS"] == "-"
    assert found["ours", "image to 3D"]["measured PSNR"].startswith("13.00 [")
    heldout = found["heldout", "image to 3D"]  # without view 0, and without the novel view
    assert heldout["method"] == "small: two-stage" and heldout["measured PSNR"].startswith("13.00 [")


def test_a_published_method_keeps_its_line_and_its_columns(results, tmp_path_factory):
    before = lines(paper_tables(tmp_path_factory.mktemp("nothing"))[0])
    after = lines(paper_tables(results)[0])
    published = json.loads(PUBLISHED.read_text())["table 1"]["rows"]
    for table in (before, after):
        shown = [line for line in table if line["PSNR"] != "-"]
        assert [(line["method"], float(line["PSNR"])) for line in shown] == [(row[1], row[3]) for row in published]
    assert all(line["measured PSNR"] == "n/a" for line in before)
    lgm = [line for line in after if line["method"].startswith("LGM")]
    assert [line["method"] for line in lgm] == ["LGM", "LGM, aligned: scale"]
    assert lgm[0]["PSNR"] == "17.716" and lgm[0]["measured PSNR"].startswith("13.00 [")
    assert lgm[0]["measured LPIPS"] == "0.2500 [0.2500, 0.2500]"
    assert lgm[1]["PSNR"] == "-" and lgm[1]["measured PSNR"].startswith("14.00 [")
    for line in after:  # never mixed: what is published has no file, what is measured has one
        assert (line["measured PSNR"] == "n/a") == (line["file"] == "")


def test_contradictions_are_footnoted_where_they_stand(results):
    first, second = paper_tables(results)
    for table in (first, second):
        marked = [row for row in table.rows if any(cell.endswith(" (a)") for cell in row)]
        assert len(marked) == 1 and sum(note.startswith("(a) ") for note in table.notes) == 1
        assert "(a)" in render(table, "latex") and "(a)" not in render(table, "csv")
    assert "0.8894 (a)" in render(first) and "0.9094 (a)" in render(second)
    assert any("ouroboros evaluate --out lgm_aligned" in note for note in first.notes)


def test_a_folder_gets_every_table_in_every_format(results, capsys):
    with pytest.raises(SystemExit):
        main(["tables", "--results", str(results), "--out", str(results / "tables")])
    names = sorted(path.name for path in (results / "tables").iterdir())
    assert names == sorted(f"table_{n}{suffix}" for n in (1, 2) for suffix in (".csv", ".md", ".tex", ".txt"))
    rows = list(csv.DictReader(io.StringIO((results / "tables" / "table_1.csv").read_text())))
    assert float(rows[0]["PSNR"]) == 20.056 and len(rows) == 9 + 4
    assert (results / "tables" / "table_1.md").read_text().startswith("### Table 1")
    assert r"procedural-test-2 & heldout \\" in (results / "tables" / "table_1.tex").read_text()
    assert r"lgm\_aligned" in (results / "tables" / "table_1.tex").read_text()


def test_measured_values_in_doubt_are_marked(results):
    path = results / "lgm.csv"
    header, *rows = path.read_text().splitlines()
    path.write_text("\n".join([header, *(row + "mirrored" * ("thing1" in row) for row in rows)]) + "\n")
    table = paper_tables(results)[0]
    marked = [line for line in lines(table) if line["measured PSNR"].endswith(" (!)")]
    assert [line["file"] for line in marked] == ["lgm"] and "(!)" not in render(table, "csv")
    assert any(note.startswith("lgm: ouroboros evaluate") and note.endswith(
        " (!) 1 of 2 objects fit better mirrored: check the convention") for note in table.notes)


def test_results_from_before_there_were_warnings(results):
    path = results / "lgm.csv"
    path.write_text("\n".join(line.rpartition(",")[0] for line in path.read_text().splitlines()) + "\n")
    assert all(row.warning == "" for row in read_rows(path)) and paper_tables(results)


def test_files_that_are_no_evaluation(results):
    (results / "other.json").write_text("[1, 2]")
    (results / "ours.csv").write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match="ours.csv: not the rows of an evaluation"):
        paper_tables(results)
    (results / "ours.csv").unlink()
    with pytest.raises(InputError, match="ours.csv: no such file"):
        paper_tables(results)


BROKEN = {
    "a seed": ("lgm.csv", lambda text: text.replace(",0,thing1,", ",7,thing1,", 1), "not the seeds of the others"),
    "no metric": ("lgm.csv", lambda text: re.sub(r"render,[0-9.]+,[0-9.]+,", "render,20.0,,", text, count=1),
                  "other metrics than in rows before"),
    "no number": ("lgm.csv", lambda text: text.replace(",1,0,render,", ",1,0,render,x", 1), "line 3: psnr: expected"),
    "NaN": ("lgm.csv", lambda text: re.sub(r"render,[0-9.]+", "render,nan", text), "psnr: expected a number"),
    "negative view": ("lgm.csv", lambda text: text.replace(",1,0,render", ",-1,0,render"), "view: expected a whole"),
    "too many cells": ("lgm.csv", lambda text: text + "a,b,0,c,0,0,render,1,1,1,1,x,y\n", "13 cells, expected 12"),
    "zero byte": ("lgm.csv", lambda text: text + "\0", "not the rows of an evaluation"),
    "long cell": ("lgm.csv", lambda text: text + "x" * 200_000, "not the rows of an evaluation"),
    "settings": ("lgm.json", lambda text: json.dumps(json.loads(text) | {"settings": [1]}), "expected an object"),
    "protocol": ("lgm.json", lambda text: json.dumps(json.loads(text) | {"protocol": {}}), "primary_views: expected"),
    "no JSON": ("lgm.json", lambda text: text[:-9], "lgm.json: not a JSON file"),
    "ablation": ("ablation.json", lambda text: '{"cells": {"a": {"b": {"c": {"mean": 1}}}}}', "low: expected a number"),
    "not finite": ("ablation_2.json", lambda text: '{"cells": NaN}', "NaN is not a finite number"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_named_and_the_others_make_the_tables(results, name):
    file, spoil, message = BROKEN[name]
    path, told = results / file, []
    path.write_text(spoil(path.read_text() if path.exists() else ""))
    tables = paper_tables(results, told.append)
    assert len(told) == 1 and str(results / "") in str(told[0]) and re.search(message, str(told[0]))
    assert "\n" not in str(told[0]) and any(line["file"] == "ours" for line in lines(tables[0]))
