"""README and docs: short, true and alive. Links lead somewhere, commands parse, figures stand in their files."""

import json
import re
import shlex
from dataclasses import fields
from functools import cache
from pathlib import Path

import pytest
import typer
from PIL import Image

from ouroboros_lib.cli.main import app
from ouroboros_lib.plans import Plan
from ouroboros_lib.training.config import TrainingConfig
from tools.splat_programs import PROGRAMS

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
CARD = ROOT / "ouroboros_lib" / "presets" / "weights" / "small" / "README.md"
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md")), *sorted(ROOT.glob("results/*.md")), CARD]
page = pytest.mark.parametrize("path", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
LINK = re.compile(r"\]\(([^)\s]+)\)")
FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
INTERVAL = re.compile(r"([+-]?\d+\.\d\d) \[(-?\d+\.\d\d), (-?\d+\.\d\d)\]")
PERCEPTUAL = re.compile(r"([+-]?0\.\d{3}) \[(-?0\.\d{3}), (-?0\.\d{3})\]")
MEGABYTE = 2**20


def paragraphs(text: str) -> list[str]:
    """Prose alone: no code, tables, headings or pictures; each point of a list is a paragraph of its own."""
    blocks = re.split(r"\n\s*\n|\n(?=[-*] )", FENCE.sub("\n\n", text))
    return [block for block in map(str.strip, blocks) if block and not block.startswith(("|", "#", "![", "---"))]


def anchors(path: Path) -> set[str]:
    """What GitHub makes of a page's headings."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", path.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def commands(text: str) -> list[list[str]]:
    """Lines of fenced shell code, without comments and what a shell takes out of them."""
    blocks = re.findall(r"^```bash\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    lines = [line.replace(" ...", "") for block in blocks for line in block.splitlines()]
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def test_readme_is_a_product_page():
    assert len(README.splitlines()) <= 120
    too_long = [text[:60] for text in paragraphs(README) if len(re.sub(r"\]\([^)]*\)", "]", text).split()) > 60]
    assert not too_long


@page
def test_links_lead_somewhere(path):
    for link in LINK.findall(FENCE.sub("", path.read_text(encoding="utf-8"))):
        if re.match(r"https?://", link):
            continue
        file, _, anchor = link.partition("#")
        target = (path.parent / file).resolve() if file else path
        assert target.exists(), link
        if target.suffix == ".md" and anchor:
            assert anchor in anchors(target), link


def test_lines_of_code_that_the_readme_points_at():
    pointed = re.findall(r"\(([\w/]+\.py)#L(\d+)\)", README)
    lines = [(ROOT / file).read_text().splitlines()[int(number) - 1] for file, number in pointed]
    assert len(lines) == 2 and "self_cond = plan.feeds_back" in lines[0] and "FEEDBACK_MAPS" in lines[1]


def test_code_to_read_in_an_hour():
    rows = re.findall(r"^\| \[[\w/.]+\]\(([\w/.]+)\) \| (\d+) \|", README, re.MULTILINE)
    assert len(rows) == 10
    for file, stated in rows:
        lines = len((ROOT / file).read_text().splitlines())
        assert abs(lines - int(stated)) <= 0.1 * lines, f"{file} has {lines} lines"


@cache
def options(command: tuple[str, ...]) -> tuple[set[str], int]:
    """The options of an `ouroboros` command, and how many words of `command` name it."""
    found, depth = typer.main.get_command(app), 0
    while hasattr(found, "commands"):
        found, depth = found.commands[command[depth]], depth + 1
    return {name for parameter in found.params for name in (*parameter.opts, *parameter.secondary_opts)}, depth


@page
def test_commands_are_understood(path):
    for words in commands(path.read_text(encoding="utf-8")):
        if words[0].endswith("ouroboros"):
            rest = words[1:]
        elif "ouroboros_lib" in words:
            rest = words[words.index("ouroboros_lib") + 1:]
        else:
            continue
        known, _ = options(tuple(rest)) if rest[0] != "--help" else ({"--help"}, 0)
        assert {word for word in rest if word.startswith("--")} <= known | {"--help"}, " ".join(words)
        for plan in (rest[i + 1] for i, word in enumerate(rest) if word == "--plan"):
            Plan.parse(plan)


@page
def test_tools_are_understood(path):
    """Options as their sources spell them; key=value, where a tool takes such, as settings of training or its own."""
    settings = {field.name for field in fields(TrainingConfig)}
    for words in commands(path.read_text(encoding="utf-8")):
        if name := next((word for word in words if word.startswith("tools.")), None):
            source = (ROOT / f"{name.replace('.', '/')}.py").read_text()
            for word in words[words.index(name) + 1:]:
                key = re.match(r"(--[\w-]+|\w+(?==))", word)
                assert not key or key[1] in settings or re.search(rf"[\"']{key[1]}[\"']|\b{key[1]}: ", source), word


def comparisons(record) -> set[tuple[float, float, float]]:
    """Every mean with its interval in a file of results."""
    found = set()
    if isinstance(record, dict):
        if {"mean", "low", "high"} <= record.keys():
            found.add((record["mean"], record["low"], record["high"]))
        record = list(record.values())
    if isinstance(record, list):
        for value in record:
            found |= comparisons(value)
    return found


def measured_in(texts: list[tuple[str, ...]], measured: set[tuple[float, float, float]], off: float = 0.0051) -> None:
    """Each mean with its interval, two digits as a page states them, is one of the measured ones, or its negative."""
    for text in texts:
        stated = [float(number) for number in text]
        assert any(all(abs(a - b) < off for a, b in zip(stated, triple, strict=True))
                   for mean, low, high in measured for triple in ((mean, low, high), (-mean, -high, -low))), text


def test_the_table_of_results_says_what_its_files_say():
    rows = [line for line in README.splitlines() if line.startswith("|") and "(results/" in line]
    assert len(rows) >= 8
    for row in rows:
        (file,) = re.findall(r"\((results/[\w./]+)\)", row)
        measured = comparisons(json.loads((ROOT / file).read_text()))
        intervals, means = INTERVAL.findall(row), re.findall(r"\| (\d+\.\d) (?=\|)", row)
        assert intervals or means
        measured_in(intervals, measured)
        assert set(means) <= {f"{mean:.1f}" for mean, _, _ in measured}, row
        measured_in(PERCEPTUAL.findall(row), measured, 0.00051)
        distances = re.findall(r"\| (0\.\d{3}) (?=\|)", row)
        assert PERCEPTUAL.search(row) or distances and set(distances) <= {f"{mean:.3f}" for mean, _, _ in measured}, row


@pytest.mark.parametrize("path", [ROOT / "results" / "README.md", ROOT / "results" / "HISTORY.md", CARD],
                         ids=["results", "history", "model card"])
def test_intervals_stand_in_results(path):
    measured = set().union(*(comparisons(json.loads(file.read_text())) for file in (ROOT / "results").rglob("*.json")))
    text = path.read_text(encoding="utf-8")
    if path.stem == "HISTORY":  # one table's last column is from rows that no file here has, as it says
        head, title, rest = text.partition("| `paper` minus `two-stage` | 256 objects | the 128 new ones alone |")
        table, _, tail = rest.partition("\n\n")
        assert title and "29852eb" in paragraphs(head)[-1]
        text = head + re.sub(r"[^|]*\|$", "", table, flags=re.MULTILINE) + "\n\n" + tail
    texts = INTERVAL.findall(text)
    assert len(texts) > 10
    measured_in(texts, measured)
    measured_in(PERCEPTUAL.findall(text), measured, 0.00051)


def table(page: str, first: str) -> list[list[str]]:
    """The cells of the table whose header begins with these words, without the header."""
    lines = (ROOT / page).read_text(encoding="utf-8").partition(f"\n{first}")[2].partition("\n\n")[0].splitlines()[2:]
    assert lines
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_the_table_of_meshes_says_what_its_file_says():
    measured = json.loads((ROOT / "results" / "meshes.json").read_text())["shapes"]
    rows = table("docs/meshes_and_views.md", "| | F-score, splat")
    for (_, *cells), kind in zip(rows, ("procedural", "scans"), strict=True):
        values = [measured[kind][method][key] for key in ("f_score", "iou") for method in ("splat", "mesh")]
        assert all(abs(float(cell) - value) < 0.00056 for cell, value in zip(cells, values, strict=True)), cells


def test_the_tables_of_splat_files_say_what_their_file_says():
    record = json.loads((ROOT / "results" / "splat_programs.json").read_text())
    size = {row["file"]: row["bytes"] for row in record["rows"]}
    for suffix, _, stated in table("docs/export.md", "| suffix | what"):
        assert size[f"ours{suffix.strip('`')}"] == int(stated.replace(",", "")), suffix
    drawn = {(row["file"], row["program"]): row for row in record["rows"]}
    for name, *cells in table("docs/export.md", "| file | SuperSplat"):
        file = ("converted" if "converted" in name else "ours") + name.split("`")[1]
        for cell, program in zip(cells, PROGRAMS, strict=True):
            row = drawn[file, program]
            numbers = [float(number) for number in re.findall(r"\d+\.\d", cell)]
            assert ("upright" in cell) == row["upright"], (name, program)
            assert numbers == [number for number in row["decibels"] if number > 20], (name, program)


def test_the_moving_picture_loops_and_is_small():
    path = ROOT / "figures" / "hero.webp"
    assert path.stat().st_size < 2 * MEGABYTE
    with Image.open(path) as picture:
        assert picture.is_animated and picture.info["loop"] == 0
        assert picture.width <= 850 and picture.n_frames > 30


@pytest.mark.parametrize("folder, megabytes", [("results", 5), ("notebooks", 9)])
def test_folders_stay_small(folder, megabytes):
    left_by_runs = {".ipynb_checkpoints", "__pycache__", "outputs"}
    files = [path for path in (ROOT / folder).rglob("*") if path.is_file() and not left_by_runs & set(path.parts)]
    assert sum(path.stat().st_size for path in files) <= megabytes * MEGABYTE
