"""The paper's tables, published values beside measured ones in columns of their own: text, Markdown, LaTeX, CSV."""

import csv
import io
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import TypedDict

from ..errors import InputError
from ..files import read_json
from ..values import Natural, checked
from .ablation import SHAPES
from .results import Evaluation
from .rows import COMPONENTS, doubts, read_rows
from .statistics import mean_interval, per_object

PUBLISHED = Path(__file__).with_name("published.json")
SUFFIXES = {"text": ".txt", "markdown": ".md", "latex": ".tex", "csv": ".csv"}
NOT_MEASURED, NOT_PUBLISHED = "n/a", "-"
TASKS = {"multiview": "image to multi-view", "render": "image to 3D"}  # of table 1, by kind of rows
METRICS = ("psnr", "ssim", "lpips")  # and its metrics
COMPARED = ("3D views 1+", "3D novel", "views 1+", "self-consistency")  # quantities of comparisons
CONTRADICTED = " (a)"  # after published values which the paper's tables disagree about
DOUBTED = " (!)"  # after measured values of files which fit better if they are read otherwise


class Interval(TypedDict):
    mean: float
    low: float
    high: float


Quantities = TypedDict("Quantities", dict.fromkeys(COMPARED, Interval), total=False)
Shapes = TypedDict("Shapes", {"objects": Natural, "training seeds": list[Natural], **dict.fromkeys(SHAPES, Interval)})
_Seeds = TypedDict("_Seeds", {"training seeds": list[Natural]})


class Differences(_Seeds, Quantities, total=False):
    """Of one metric; only the quantities that both cells have."""


class _Compared(Differences):
    label: str


class Comparison(_Compared, total=False):
    """One of an ablation's, by PSNR; only what both of its cells have."""

    lpips: Differences
    geometry: Shapes


class Ablation(TypedDict):
    """What is read of a file that `evaluation.ablation.collect` wrote."""

    cells: dict[str, dict[str, dict[str, Interval] | int | list[int]]]
    comparisons: list[Comparison]
    missing: list[str]


@dataclass
class Table:
    """Cells as strings; notes say what the columns mean and where the values come from."""

    title: str
    columns: list[str]
    rows: list[list[str]]
    notes: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        """For files: the title up to its first comma or bracket."""
        return re.split(r"[,(]", self.title)[0].strip().lower().replace(" ", "_")


@dataclass
class Measurement:
    """One method's views or 3D renders in one evaluation.

    model: preset or folder of our weights, "" for other methods; pixels "" where not stated; cells: of table 1 from the
    measured PSNR on; note: the results' file and the command that made it.
    """

    task: str
    method: str
    model: str
    pixels: str
    cells: list[str]
    note: str


def paper_tables(results: str | Path, skip: Callable[[InputError], None] | None = None) -> list[Table]:
    """Tables 1 and 2, and what else an ablation compared.

    results: folder with what `ouroboros evaluate` wrote, for table 1, and with ablation.json, which `ouroboros recipe
    ablation` writes, for table 2; measured columns are n/a where there is nothing. Comparisons are those of all files
    ablation*.json; the rows of each started from models of their own. skip: is told of each file that cannot be read,
    and the others make the tables; None raises the InputError.
    """
    published, ablations, measured = read_json(PUBLISHED), {}, []
    for path in sorted(Path(results).glob("*.json")):
        try:
            if path.name.startswith("ablation"):
                ablations[path.name] = checked(read_json(path), Ablation, path)
            else:
                measured += measurements(path)
        except InputError as error:
            if skip is None:
                raise
            skip(error)
    tables = [_table_1(published, measured), _table_2(published, ablations.get("ablation.json"))]
    return tables + (_comparisons(ablations) if ablations else [])


def measurements(path: Path) -> list[Measurement]:
    """All that one evaluation says, of its JSON file and the CSV beside it; nothing for JSON files of other kinds.

    Means are over the protocol's primary views; on procedural objects over the orbit without view 0. Raises InputError
    for an evaluation whose CSV is missing or not one.
    """
    record, found = read_json(path), []
    if not isinstance(record, dict) or not {"settings", "summary"} <= record.keys():
        return found
    settings, rows = checked(record, Evaluation, path)["settings"], read_rows(path.with_suffix(".csv"))
    of_folder, ours = "protocol" in record, settings.get("method", "ours") == "ours"
    primary = record["protocol"]["primary_views"] if of_folder else range(1, settings.get("num_views", 8))
    for method, (kind, task) in product(dict.fromkeys(row.method for row in rows), TASKS.items()):
        mine = [row for row in rows if row.method == method and row.kind == kind and row.view in primary]
        if mine and method not in COMPONENTS:
            tables, label = per_object(mine), mine[0].protocol
            values = {name: mean_interval(tables[name], digits=4) for name in METRICS if name in tables}
            pixels = re.search(r"-(\d+)(-all)?$", label) if of_folder else None
            doubt = doubts(mine).get(method)
            cells = [_cell(values.get(metric), metric) + DOUBTED * bool(doubt and metric in values)
                     for metric in METRICS]
            found.append(Measurement(task, method, settings.get("preset", "small") if ours else "",
                                     pixels[1] if pixels else "", [*cells, str(len(tables["psnr"])), label, path.stem],
                                     f"{path.stem}: {record.get('command', '')}"
                                     + (f"{DOUBTED} {doubt}: check the convention" if doubt else "")))
    return found


def _table_1(published: dict, found: list[Measurement]) -> Table:
    """A line per published method and one per measurement; a measurement of a published method stands in its line."""
    table = published["table 1"]
    lines = {task: [] for task in dict.fromkeys(row[0] for row in table["rows"])}
    left = list(found)
    for (task, method, pixels, *scores), known_as in zip(table["rows"], table["measured as"], strict=True):
        mark = CONTRADICTED if scores == table["contradicted"] else ""
        cells = [f"{scores[0]:.3f}", *(f"{score:.4f}{mark}" for score in scores[1:])]
        mine = [m for m in left if m.method.partition("-aligned-")[0] == known_as]
        left = [m for m in left if m not in mine]
        for measurement in mine or [None]:
            _, aligned, how = measurement.method.partition("-aligned-") if measurement else ("", "", "")
            lines[task].append([task, method + (f", aligned: {how}" if aligned else ""), str(pixels), *cells,
                                *(measurement.cells if measurement else [NOT_MEASURED] * 3 + [""] * 3)])
            cells = [NOT_PUBLISHED] * 3  # once is enough
    for measurement in left:
        name = f"{measurement.model}: {measurement.method}" if measurement.model else measurement.method
        lines[measurement.task].append([measurement.task, name, measurement.pixels, *[NOT_PUBLISHED] * 3,
                                        *measurement.cells])
    notes = [f"Published: {published['source']}. {published['data']}.", *table["notes"]]
    if found:
        notes += ["Measured: mean over the views that the protocol counts (on procedural objects all but the input) "
                  "[95 % interval over objects and seeds of the noise]. No measured line is on the paper's objects, "
                  "which it does not name, nor with its cameras: compare only lines that name the same file. LPIPS "
                  "is by AlexNet where the file's command does not say --lpips vgg.",
                  *dict.fromkeys(measurement.note for measurement in found)]
    else:
        notes.append("Nothing measured yet: `ouroboros evaluate --out RESULTS/NAME` makes measurements.")
    if any(cell == NOT_MEASURED for rows in lines.values() for row in rows if row[-1] for cell in row[6:9]):
        notes.append("LPIPS n/a: it was not measured there. `ouroboros evaluate` measures it unless told --lpips off.")
    columns = ["task", "method", "pixels", "PSNR", "SSIM", "LPIPS", "measured PSNR", "measured SSIM", "measured LPIPS",
               "n", "protocol", "file"]
    return Table("Table 1 (GSO), published and measured", columns, [row for rows in lines.values() for row in rows],
                 notes)


def _table_2(published: dict, ablation: dict | None) -> Table:
    table = published["table 2"]
    rows = []
    for values, cell in zip(table["rows"], table["cells"], strict=True):
        mark = CONTRADICTED if values[3:6] == table["contradicted"] else ""
        measured = (ablation or {"cells": {}})["cells"].get(cell, {})
        rows.append(["yes" if flag else "no" for flag in values[:3]]
                    + [f"{values[3]:.3f}", *(f"{value:.4f}{mark}" for value in values[4:6]), f"{values[6]:.3f}"]
                    + [f"{value:.4f}" for value in values[7:]]
                    + [_cell(measured.get(quantity, {}).get(metric), metric) for _, quantity, metric in MEASURED])
    later = ", ".join(f"{value:.3f} from step {step}" for step, value in published["feedback from step"].items())
    notes = [f"Published: {published['source']}, GSO.", *table["notes"],
             f"Published PSNR of the last row with feedback switched on later, of 25 steps: {later}.",
             "Measured: `small`, 128 pixels, held-out procedural objects, known families, views 1-7 (view 0 is the "
             "input); mean [95 % interval over objects and training seeds]. Compare rows, not columns: another world, "
             "another resolution."]
    if ablation is None:
        notes.append("Nothing measured yet: `ouroboros recipe ablation` makes ablation.json.")
    return Table("Table 2, the ablation", ["joint", "CCM", "RGB", "PSNR", "SSIM", "LPIPS", "dPSNR", "dSSIM", "dLPIPS",
                                           *(f"measured {name}" for name, _, _ in MEASURED)], rows, notes)


MEASURED = (("3D PSNR", "3D views 1+", "psnr"), ("3D SSIM", "3D views 1+", "ssim"),
            ("3D LPIPS", "3D views 1+", "lpips"), ("dPSNR", "difference", "psnr"), ("dSSIM", "difference", "ssim"),
            ("dLPIPS", "difference", "lpips"), ("self-consistency", "self-consistency", "psnr"))


def _interval(value: dict | None, digits: int, sign: str = "") -> str:
    """Mean [low, high], and the verdict if there is one."""
    if value is None:
        return NOT_MEASURED
    text = f"{value['mean']:{sign}.{digits}f} [{value['low']:.{digits}f}, {value['high']:.{digits}f}]"
    return f"{text} {value['verdict']}" if "verdict" in value else text


def _cell(value: dict | None, metric: str) -> str:
    return _interval(value, 2 if metric == "psnr" else 4)


def _comparisons(ablations: dict[str, dict]) -> list[Table]:
    """By PSNR, and by LPIPS and geometry if any was measured."""
    def line(label: str, differences: dict, digits: int, file: str) -> list[str]:
        return [label, str(len(differences["training seeds"])),
                *(_interval(differences.get(quantity), digits, "+") for quantity in COMPARED), file]

    rows, perceptual, shapes = [], [], []
    for file, entry in ((file, entry) for file, ablation in ablations.items() for entry in ablation["comparisons"]):
        rows.append(line(entry["label"], entry, 2, file))
        if lpips := entry.get("lpips"):
            perceptual.append(line(entry["label"], lpips, 4, file))
        if shape := entry.get("geometry"):
            shapes.append([entry["label"], str(shape["objects"]), str(len(shape["training seeds"])),
                           *(_interval(shape[name], 4, "+") for name in SHAPES), file])
    notes = ["Differences of PSNR in dB, paired by object and training seed, with 95 % bootstrap intervals. The rows "
             "of a file started from the same models, those of another file from others."]
    if missing := set.intersection(*(set(ablation["missing"]) for ablation in ablations.values())):
        notes.append("Not measured yet: " + ", ".join(sorted(missing)) + ".")
    found = [Table("Comparisons", ["what", "seeds", *COMPARED, "file"], rows, notes)]
    if perceptual:
        found.append(Table("Comparisons by LPIPS", ["what", "seeds", *COMPARED, "file"], perceptual, [
            "Differences of LPIPS, paired likewise; smaller is better."]))
    if shapes:
        found.append(Table("Shapes", ["what", "objects", "seeds", *SHAPES, "file"], shapes, [
            "Differences of the splats' surface against the exact one; Chamfer distances in world units: smaller is "
            "better."]))
    return found


def render(table: Table, style: str = "text") -> str:
    """One table as text, markdown, latex (booktabs) or csv (without notes and marks)."""
    if style == "csv":
        buffer = io.StringIO()
        rows = [[cell.removesuffix(CONTRADICTED).removesuffix(DOUBTED) for cell in row] for row in table.rows]
        csv.writer(buffer, lineterminator="\n").writerows([table.columns, *rows])
        return buffer.getvalue()
    if style == "latex":
        def line(cells):
            return " & ".join(_escape(cell) for cell in cells) + r" \\"
        body = [r"\begin{table}", rf"\caption{{{_escape(table.title)}}}",
                rf"\begin{{tabular}}{{{'l' * len(table.columns)}}}", r"\toprule", line(table.columns), r"\midrule",
                *map(line, table.rows), r"\bottomrule", r"\end{tabular}",
                *(rf"\par\footnotesize {_escape(note)}" for note in table.notes), r"\end{table}"]
        return "\n".join(body) + "\n"
    widths = [max(len(row[i]) for row in [table.columns, *table.rows]) for i in range(len(table.columns))]
    padded = [[cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
              for row in [table.columns, *table.rows]]
    if style == "markdown":
        lines = ["| " + " | ".join(row) + " |" for row in padded]
        lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
        return "\n".join([f"### {table.title}", "", *lines, "", *(f"- {note}" for note in table.notes)]) + "\n"
    lines = ["  ".join(row).rstrip() for row in padded]
    return "\n".join([table.title, "", lines[0], "-" * len(lines[0]), *lines[1:], "", *table.notes]) + "\n"


def _escape(text: str) -> str:
    special = {"\\": r"\textbackslash{}", "^": r"\textasciicircum{}", "~": r"\textasciitilde{}", "<": r"\textless{}",
               ">": r"\textgreater{}", "|": r"\textbar{}", **{character: "\\" + character for character in "&%$#_{}"}}
    return "".join(special.get(character, character) for character in text)
