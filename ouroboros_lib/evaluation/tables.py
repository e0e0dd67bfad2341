"""The paper's tables, published values beside measured ones in columns of their own: text, Markdown, LaTeX, CSV."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass, field
from pathlib import Path

from ..files import read_json

PUBLISHED = Path(__file__).with_name("published.json")
FORMATS = ("text", "markdown", "latex", "csv")
NOT_MEASURED = "n/a"


@dataclass
class Table:
    """Cells as strings; notes say what the columns mean and where the values come from."""

    title: str
    columns: list[str]
    rows: list[list[str]]
    notes: list[str] = field(default_factory=list)


def paper_tables(results: str | Path) -> list[Table]:
    """Tables 1 and 2, and what else an ablation compared.

    results: folder with ablation.json, which `ouroboros recipe ablation` writes; without it measured columns are n/a.
    """
    published = read_json(PUBLISHED)
    path = Path(results) / "ablation.json"
    ablation = read_json(path) if path.is_file() else None
    tables = [_table_1(published), _table_2(published, ablation)]
    if ablation is not None:
        tables.append(_comparisons(ablation))
    return tables


def _table_1(published: dict) -> Table:
    table = published["table 1"]
    rows = [[task, method, str(resolution), f"{psnr:.3f}", f"{ssim:.4f}", f"{lpips:.4f}"]
            for task, method, resolution, psnr, ssim, lpips in table["rows"]]
    notes = [f"Published: {published['source']}. {published['data']}.", *table["notes"],
             "Nothing measured here belongs beside these: the small models are of another world (table 2)."]
    return Table("Table 1, as published (GSO)", ["task", "method", "pixels", "PSNR", "SSIM", "LPIPS"], rows, notes)


def _table_2(published: dict, ablation: dict | None) -> Table:
    table = published["table 2"]
    rows = []
    for values, cell in zip(table["rows"], table["cells"], strict=True):
        psnr, ssim, lpips, dpsnr = values[3:7]
        measured = (ablation or {"cells": {}})["cells"].get(cell, {})
        rows.append(["yes" if flag else "no" for flag in values[:3]]
                    + [f"{psnr:.3f}", f"{ssim:.4f}", f"{lpips:.4f}", f"{dpsnr:.3f}"]
                    + [_interval(measured, quantity, metric) for quantity, metric in MEASURED])
    later = ", ".join(f"{value:.3f} from step {step}" for step, value in published["feedback from step"].items())
    notes = [f"Published: {published['source']}, GSO. {table['notes'][0]}",
             f"Published PSNR of the last row with feedback switched on later, of 25 steps: {later}.",
             "Measured: `small`, 128 pixels, held-out procedural objects, known families, views 1-7 (view 0 is the "
             "input); mean [95 % interval over objects and training seeds]. Compare rows, not columns: another world, "
             "another resolution."]
    if ablation is None:
        notes.append("Nothing measured yet: `ouroboros recipe ablation` makes ablation.json.")
    return Table("Table 2, the ablation", ["joint", "CCM", "RGB", "PSNR", "SSIM", "LPIPS", "dPSNR", *(
        f"measured {name}" for name in ("3D PSNR", "3D SSIM", "dPSNR", "self-consistency"))], rows, notes)


MEASURED = (("3D views 1+", "psnr"), ("3D views 1+", "ssim"), ("difference", "psnr"), ("self-consistency", "psnr"))


def _interval(cell: dict, quantity: str, metric: str) -> str:
    value = cell.get(quantity, {}).get(metric)
    if value is None:
        return NOT_MEASURED
    digits = 2 if metric == "psnr" else 4
    return f"{value['mean']:.{digits}f} [{value['low']:.{digits}f}, {value['high']:.{digits}f}]"


def _comparisons(ablation: dict) -> Table:
    quantities = ("3D views 1+", "3D novel", "views 1+", "self-consistency")
    rows = []
    for entry in ablation["comparisons"]:
        cells = [f"{entry[q]['mean']:+.2f} [{entry[q]['low']:.2f}, {entry[q]['high']:.2f}] {entry[q]['verdict']}"
                 if q in entry else NOT_MEASURED for q in quantities]
        rows.append([entry["label"], str(len(entry["training seeds"])), *cells])
    notes = ["Differences of PSNR in dB, paired by object and training seed, with 95 % bootstrap intervals."]
    if ablation["missing"]:
        notes.append("Not measured yet: " + ", ".join(ablation["missing"]) + ".")
    return Table("Comparisons", ["what", "seeds", *quantities], rows, notes)


def render(table: Table, style: str = "text") -> str:
    """One table as text, markdown, latex (booktabs) or csv (without notes)."""
    if style == "csv":
        buffer = io.StringIO()
        csv.writer(buffer, lineterminator="\n").writerows([table.columns, *table.rows])
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
    for character in r"\&%$#_{}":
        text = text.replace(character, r"\textbackslash " if character == "\\" else "\\" + character)
    return text
