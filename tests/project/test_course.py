"""The notebooks as a course: one form, clean and small, nothing defined twice; the map from paper to code is true."""

import ast
import inspect
import json
import re
from functools import cache
from importlib import import_module
from pathlib import Path
from statistics import median

import pytest

from ouroboros_lib.algorithms import joint_losses, recursion
from ouroboros_lib.errors import InputError
from tools.book import minutes
from tools.book.glossary import read_glossary
from tools.book.notebooks import shows_a_picture

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))
SOLUTIONS = sorted((ROOT / "notebooks" / "solutions").glob("*.ipynb"))
INDEX = (ROOT / "notebooks" / "README.md").read_text()
END = ["What you learned", "Three questions", "Exercises", "Go further", "References"]
# what 00 may not use without saying what it is
WORDS = ("F", "G", "view", "condition view", "azimuth", "elevation", "preset", "latent", "noise level", "sigma",
         "diffusion model", "denoising step", "solver", "decoder", "x_t", "pred_x", "pred_i", "Gaussian", "splat",
         "render", "rasterizer", "RGB", "CCM", "feedback", "self_cond", "recursion", "trace", "plan", "PSNR", "dB",
         "self-consistency", "alpha", "weights", "opacity", "Algorithm 2")
ORDINARY = {"agreement", "estimate", "interval", "stand-in"}  # of the glossary, but in 00 what they always mean
CODE_CELLS, WORDS_OF_TEXT = 40, 2200  # of a lesson, exercises among them
MARK = r"#.*?\blines? (\d)"  # of an algorithm's line


def read(path):
    notebook = json.loads(path.read_text())
    for cell in notebook["cells"]:
        cell["source"] = "".join(cell["source"])
    return notebook


def code(notebook):
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def text(notebook):
    return [cell["source"] for cell in notebook["cells"] if cell["cell_type"] == "markdown"]


def words(markdown):
    """How many; a formula is one, and addresses, tags and what has neither letter nor digit are none."""
    plain = re.sub(r"\$\$.+?\$\$|\$[^$\n]+?\$", " formula ", markdown, flags=re.DOTALL)
    plain = re.sub(r"</?\w+>", " ", re.sub(r"\]\([^)]*\)", "]", plain))
    return sum(any(map(str.isalnum, word)) for word in plain.split())


def name_of(path):
    return path.stem


every = pytest.mark.parametrize("path", NOTEBOOKS + SOLUTIONS, ids=name_of)
lesson = pytest.mark.parametrize("path", NOTEBOOKS, ids=name_of)


@lesson
def test_every_notebook_opens_and_closes_the_same_way(path):
    cells = text(read(path))
    assert cells[0].startswith(f"# {path.stem[:2]} ")
    for word in ("**Goal.**", "**You need**", "**Minutes**", "**Where it ends**"):
        assert word in cells[0], word
    assert re.search(r"!\[.+?\]\(attachment:[\w.]+\)$", cells[0])
    assert re.match(r"!\[.+?\]\(attachment:ring.png\)\n", cells[1])
    whole = "\n".join(cells)
    headings = [heading for heading in re.findall(r"^## (.+)", whole, re.MULTILINE) if heading in END]
    assert headings == END and headings[-1] == re.findall(r"^## (.+)", whole, re.MULTILINE)[-1]
    further = whole[whole.index("\n## Go further"):whole.index("\n## References")]
    assert re.findall(r"^(\d)\. ", further, re.MULTILINE) == ["1", "2", "3"]
    quiz = whole[whole.index("\n## Three questions"):whole.index("\n## Exercises")]
    assert re.findall(r"^\*\*(\d)\.\*\*", quiz, re.MULTILINE) == ["1", "2", "3"] and quiz.count("<details>") == 3
    assert len([cell for cell in cells if cell.startswith("> **Predict first.**") and "<details>" in cell]) >= 2


@lesson
def test_minutes_are_those_that_the_book_counts(path):
    """`python -m tools.book.minutes` writes them; those of its sections come from the same figures."""
    seconds = minutes.recorded(ROOT)
    cores = json.loads((ROOT / minutes.RECORD).read_text())["cores"] if seconds else 2
    times = seconds.get(path.stem)
    line = minutes.stated(json.loads(path.read_text())["cells"], sum(times.values()) if times else None, cores)
    assert line and line in text(read(path))[0].splitlines()


@lesson
def test_exercises_are_asked_and_answered(path):
    """A stub and a folded hint for each; the solutions pass."""
    number, notebook = path.stem[:2], read(path)
    names = [f"{number}-{key}" for key in import_module(f"ouroboros_lib.course.lesson_{number}").EXERCISES]
    solutions = read(path.parent / "solutions" / f"{number}_solutions.ipynb")
    assert len(names) >= 6
    for cells, verdict in ((code(notebook), "… not answered yet"), (code(solutions), "✔ right")):
        found = [(re.search(r'^check\("(.+?)"', cell["source"], re.MULTILINE), cell) for cell in cells]
        asked = [(match[1], cell) for match, cell in found if match]
        assert [name for name, _ in asked] == names
        for name, cell in asked:
            said = ["".join(output["data"]["text/plain"]) for output in cell["outputs"]]
            assert said and said[0].startswith(f"{verdict} ({name}): "), said
    tasks = [cell for cell in text(notebook) if re.match(rf"\*\*{number}-\d ", cell)]
    assert len(tasks) == len(names) and all("<summary>Hint</summary>" in task for task in tasks)


@lesson
def test_every_parameter_is_checked(path):
    cells = code(read(path))
    names = [node.targets[0].id for node in ast.parse(cells[1]["source"]).body]
    calls = [node for node in ast.walk(ast.parse(cells[2]["source"])) if isinstance(node, ast.Call)
             and getattr(node.func, "id", "") == "notebook"]
    assert sorted([keyword.arg for keyword in calls[0].keywords] + ["device"]) == sorted(names)


@pytest.mark.parametrize("number, name, value", [
    (0, "preset", "smal"), (0, "image_path", "gone.png"), (1, "steps", 1), (2, "chosen_object", 12),
    (2, "steps", 1), (3, "fit_views", "many"),
    (4, "steps", 2.5), (5, "joint_steps", 3), (5, "preset", "narrow"), (6, "evaluated", 10),
    (6, "evaluated", []), (6, "evaluated", [-1]), (7, "object_number", -1)])
def test_wrong_parameters_end_in_one_line_before_anything_runs(number, name, value):
    cells, names = code(read(NOTEBOOKS[number])), {}
    exec(cells[1]["source"], names)
    names[name] = value
    with pytest.raises(InputError, match=f"parameter {name}: (.0.: )?expected "):
        exec(cells[2]["source"], names)


def unexplained(cells):
    """Those of WORDS, and of the glossary's words as far as a notebook uses them, that it does not explain.

    To explain a word is to print it bold; titles, of exercises and notes, are bold too, and end with a full stop.
    """
    explained = [bold for bold in re.findall(r"\*\*(.+?)\*\*", "\n".join(cells)) if not bold.endswith(".")]
    used = re.sub(r"\]\([^)]*\)", "]", "\n".join(cells)).partition("\n## References")[0]

    def stands_in(word, *texts):
        return any(re.search(rf"(?<![\w-]){re.escape(word)}s?(?![\w-])", text, re.IGNORECASE) for text in texts)

    listed = {word for entry in read_glossary(ROOT / "docs" / "glossary.md") for word in entry.words} - ORDINARY
    words = {*WORDS, *(word for word in listed if stands_in(word, used))}
    assert not (unused := [word for word in WORDS if not stands_in(word, used)]), unused  # they need not be on the list
    return {word for word in words if not stands_in(word, *explained)}


def test_the_first_notebook_explains_the_words_that_it_uses():
    """Someone who has read 00 alone can say what they mean: each is in its table, or is explained where it comes."""
    assert not unexplained(text(read(NOTEBOOKS[0])))


@pytest.mark.parametrize("word", ["F", "G", "latent", "splat", "feedback", "recursion", "PSNR", "self-consistency"])
def test_a_word_that_is_no_longer_explained_is_noticed(word):
    row = re.compile(rf"^\| \*\*{word}\*\* \|.+$", re.MULTILINE)
    assert word in unexplained([row.sub("", cell) for cell in text(read(NOTEBOOKS[0]))])


def test_a_word_of_the_glossary_that_is_new_in_the_first_notebook_is_noticed():
    assert unexplained(["**The U-Net.** It has two halves.", *text(read(NOTEBOOKS[0]))]) == {"U-Net"}


@lesson
def test_every_notebook_has_solutions_and_stands_in_the_index(path):
    solutions = path.parent / "solutions" / f"{path.stem[:2]}_solutions.ipynb"
    assert f"({path.name})" in INDEX and f"(solutions/{solutions.name})" in INDEX
    headings = re.findall(r"^## (\d)", "\n".join(text(read(solutions))), re.MULTILINE)
    assert headings == ["1", "2", "3"]


@every
def test_notebooks_are_committed_executed_clean_and_small(path):
    raw, notebook = path.read_text(), read(path)
    assert len(raw) < (3_000_000 if "recursion_explorer(" in raw else 1_200_000)  # a page with splats of all steps
    assert notebook["metadata"].keys() <= {"kernelspec", "language_info", "widgets"}
    assert any(cell["outputs"] for cell in code(notebook))
    for cell in notebook["cells"]:
        assert cell["metadata"].keys() <= {"tags", "jupyter", "mystnb"} and len(cell["id"]) < 12
        assert cell["metadata"].get("jupyter", {"source_hidden": True}) == {"source_hidden": True}
    for cell in code(notebook):
        for output in cell["outputs"]:
            assert output["output_type"] != "error" and output.get("name") != "stderr"
            assert "image/svg+xml" not in output.get("data", {})
    outputs = json.dumps([cell["outputs"] for cell in code(notebook)])
    assert not re.search(r'[" ]/(home|root|tmp|work|Users)/', outputs)


def test_the_story_so_far_is_what_was_measured():
    """05 and 06 begin with figures of 04's table of the bird."""
    cells = code(read(NOTEBOOKS[4]))
    printed = "".join("".join(output.get("text", "")) for cell in cells for output in cell["outputs"])
    off, on = ([float(number) for number in re.search(rf"^\({design}\).*?  +(.+)$", printed, re.MULTILINE)[1].split()]
               for design in "ac")
    assert f"{on[2]} dB instead of {off[2]}" in text(read(NOTEBOOKS[5]))[0]
    raised, lowered = on[2] - off[2], off[1] - on[1]
    assert f"self-consistency by {raised:.1f} dB and lowered its 3D by {lowered:.1f}." in text(read(NOTEBOOKS[6]))[0]


@every
def test_every_picture_has_a_caption_and_words_for_who_does_not_see_it(path):
    """One plain sentence that the book shows, and one that is read out; no two the same."""
    pictured = [cell for cell in code(read(path)) if any(map(shows_a_picture, cell["outputs"]))]
    said = {cell["id"]: cell["metadata"].get("mystnb", {}) for cell in pictured}
    captions = {name: words.get("figure", {}).get("caption", "") for name, words in said.items()}
    alts = {name: words.get("image", {}).get("alt", "") for name, words in said.items()}
    assert pictured and not [name for name in said if not captions[name] or not alts[name]]
    assert all(re.fullmatch(r"[^$\n]{10,200}[.?]", caption) for caption in captions.values()), captions
    assert all(re.fullmatch(r"[^$`\n]{10,400}", alt) for alt in alts.values()), alts
    assert len({*captions.values(), *alts.values()}) == 2 * len(said)


@every
def test_the_first_code_cell_fetches_the_library_where_it_is_not(path):
    first = code(read(path))[0]
    assert first["source"] == code(read(NOTEBOOKS[0]))[0]["source"] and not first["outputs"]
    assert 'find_spec("ouroboros_lib") is None' in first["source"]


@every
def test_the_second_one_holds_the_parameters(path):
    assert code(read(path))[1]["metadata"].get("tags") == ["parameters"]


@every
def test_the_third_one_prepares_threads_and_device_before_torch_is_imported(path):
    notebook = read(path)
    assert re.search("^from ouroboros_lib import notebook\n", code(notebook)[2]["source"], re.MULTILINE)
    assert not any("noqa" in cell["source"] for cell in code(notebook))


def test_the_course_is_small():
    assert sum(path.stat().st_size for path in NOTEBOOKS + SOLUTIONS) < 8_000_000


@lesson
def test_a_lesson_is_read_in_one_sitting(path):
    notebook = read(path)
    assert len(code(notebook)) <= CODE_CELLS
    assert words("\n".join(text(notebook))) <= WORDS_OF_TEXT


@pytest.mark.parametrize("markdown, count", [
    ("Two words", 2), ("a formula, $x + 1$, is one", 5), ("$$\nx = 1\n$$", 1), ("[a link](to/a/place.md#x) - | two", 3),
    ("<details><summary>Hint</summary>\n\n`a = b` is code\n\n</details>", 5)])
def test_what_counts_as_a_word(markdown, count):
    assert words(markdown) == count


@every
def test_cells_are_short(path):
    lengths = [len(cell["source"].splitlines()) for cell in code(read(path))]
    assert median(lengths) <= 10 and max(lengths) <= 40


@cache
def library_functions() -> set[str]:
    trees = (ast.parse(path.read_text()) for path in (ROOT / "ouroboros_lib").rglob("*.py"))
    return {node.name for tree in trees for node in tree.body
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_")}


@every
def test_a_function_of_the_library_only_comes_twice_to_be_compared(path):
    """The toy in a notebook may bear the library's name if an assertion holds the two against each other."""
    sources = [cell["source"] for cell in code(read(path))]
    defined = {node.name for source in sources for node in ast.walk(ast.parse(source))
               if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
    for name in defined & library_functions():
        assert any(name in source and ("assert" in source or "\ncheck(" in source) for source in sources), name


@every
def test_no_notebook_writes_an_algorithm_out_again(path):
    """Cells mark the lines that they are about; a second copy would mark all of them. Answers to exercises are one."""
    sources = [cell["source"] for cell in code(read(path)) if "\ncheck(" not in cell["source"]]
    assert all(len(set(re.findall(MARK, source))) < 4 for source in sources)


@pytest.mark.parametrize("number, algorithm", [(4, recursion), (5, joint_losses)])
def test_two_notebooks_show_the_algorithms_as_they_stand_now(number, algorithm):
    cells = code(read(NOTEBOOKS[number]))
    (cell,) = [cell for cell in cells if cell["source"] == f"show_source({algorithm.__name__})"]
    assert "".join(cell["outputs"][0]["data"]["text/markdown"]) == f"```python\n{inspect.getsource(algorithm)}```"
    assert any(f"{algorithm.__name__}(" in other["source"] for other in cells if other is not cell)  # and run it


@pytest.mark.parametrize("path", [*NOTEBOOKS, *SOLUTIONS, ROOT / "notebooks" / "README.md"], ids=name_of)
def test_paths_that_are_named_exist(path):
    texts = "\n".join(text(read(path))) if path.suffix == ".ipynb" else path.read_text()
    for link in re.findall(r"\]\((?!https?:|attachment:)([^)#\s]+)", texts):
        assert (path.parent / link).exists(), link
    for name in re.findall(r"`((?:docs|figures|notebooks|ouroboros_lib|results|tests|tools)/[\w./-]+)`", texts):
        assert (ROOT / name).exists(), name


# --- the map from paper to code ---

ROWS = re.findall(r"^\| (.+?) \| `([\w.]+):([\w.]+)` \| ([\d, ]*)\|$", INDEX, re.MULTILINE)


def resolve(module, name):
    found = import_module(module)
    for part in name.split("."):
        found = getattr(found, part)
    return found


def test_the_map_has_no_dead_rows():
    assert len(ROWS) > 15
    for _, module, name, notebooks in ROWS:
        assert callable(resolve(module, name))
        for number in filter(None, re.split(r"[ ,]+", notebooks)):
            assert any(path.name.startswith(number) for path in NOTEBOOKS), number


@pytest.mark.parametrize("number, lines", [(1, range(1, 7)), (2, range(1, 7))])
def test_the_algorithms_lines_are_marked_in_order(number, lines):
    module, name = next(row[1:3] for row in ROWS if row[0].startswith(f"Algorithm {number}"))
    marks = [int(mark) for mark in re.findall(MARK, inspect.getsource(resolve(module, name)))]
    assert set(marks) == set(lines) and marks == sorted(marks)
