"""The book, of a small repository: what its pages show, what they lead to, and what it refuses."""

import json
import re
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from PIL import Image

from ouroboros_lib.errors import InputError
from tools.book import minutes
from tools.book.links import faults
from tools.book.mathml import mathml
from tools.book.notebooks import NO_KERNEL, PLOTLY, PLOTLY_FILE, prepare
from tools.book.site import build

README = """# Small, to test

![badge](https://img.example/a.svg) [![open](https://img.example/b.svg)](https://colab.example) Latents of F. F again.

![a dot](figures/dot.png)

See [one](notebooks/00_one.ipynb#a-formula), [this line](lib/noise.py#L2), [code](lib),
[rows](results/rows.json), [the guide][g].

## Second

F once more, and `calm`; F. Hutter is no F.

[g]: docs/guide.md#where
"""
GLOSSARY = """# Glossary

| word | meaning |
|---|---|
| **F** | the network, see [one](../notebooks/00_one.ipynb) |
| **latent, code** | what the *autoencoder* makes |
| `calm` | a plan |
"""
PNG = ("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==")


def shown(source: str, data: dict, id: str, **metadata):
    return new_code_cell(source, id=id, outputs=[new_output("display_data", data)], metadata=metadata)


def first_notebook():
    from ipywidgets.embed import embed_data

    from ouroboros_lib.viz.notebook import stepper

    widget = stepper([Image.new("RGB", (96, 96), color) for color in ("red", "blue")])
    view = {"model_id": widget.model_id, "version_major": 2, "version_minor": 0}
    figure = {"data": [{"type": "scatter", "x": [0, 1], "y": [0, 1], "name": "<a & b>"}], "layout": {}}
    caption = {"mystnb": {"figure": {"caption": "What *one* pixel is."}}}
    words = {"figure": {"caption": "Both move."}, "image": {"alt": "A film, then a dot"}}
    mixed = shown("mixed", {"text/html": "<video></video>"}, "mixed", mystnb=words)
    mixed.outputs += [new_output("display_data", data) for data in ({"image/png": PNG}, {"text/markdown": "a table"})]
    nb = new_notebook(cells=[
        new_markdown_cell("# 00 One: the first\n\nHere is `F`, and F."),
        new_code_cell("import math\nimport os", id="setup"),
        new_markdown_cell("## A formula\n\n" + "word " * 300 + r"so $\text{pred\_x}$ and $$\sum_i x_i.$$"),
        new_code_cell("x = 1\ny = 2\nx", id="long"),
        shown('axis.set(xlabel="noise level", title="A plot")', {"image/png": PNG}, "plot"),
        shown("show(pixel)", {"image/png": PNG}, "pixel", **caption),
        shown("figure", {PLOTLY: figure}, "figure"),
        shown("frame", {"text/html": '<iframe srcdoc="&lt;p&gt;inside&lt;/p&gt;"></iframe>'}, "frame"),
        mixed,
        shown("widget", {"application/vnd.jupyter.widget-view+json": view, "text/plain": "VBox"}, "widget"),
        new_markdown_cell("## Exercises\n\n[00](solutions/00_solutions.ipynb)"),
    ])
    nb.metadata["widgets"] = {"application/vnd.jupyter.widget-state+json": embed_data(widget)["manager_state"]}
    return nb


def as_jupyterlab_saves_it():
    """After Run All: its own metadata, times, standard error, and no state of widgets."""
    view = {"application/vnd.jupyter.widget-view+json": {"model_id": "gone", "version_major": 2, "version_minor": 0},
            "text/plain": "IntSlider(value=1)"}
    cell = shown("slider", view, "slider", execution={"iopub.execute_input": "2026-01-01T00:00:00.000000Z"})
    cell.outputs.append(new_output("stream", name="stderr", text="a warning"))
    cell.execution_count = 3
    return new_notebook(cells=[new_markdown_cell("# 01 Two"), cell], metadata={
        "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
        "language_info": {"codemirror_mode": {"name": "ipython", "version": 3}, "file_extension": ".py",
                          "mimetype": "text/x-python", "name": "python", "nbconvert_exporter": "python",
                          "pygments_lexer": "ipython3", "version": "3.12.1"},
        "toc-autonumbering": True, "papermill": {"duration": 3.0}})


def write(root: Path, files: dict) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, str):
            path.write_text(content)
        else:
            nbformat.write(content, path)
    return root


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    solution = new_notebook(cells=[new_markdown_cell("# Solutions to 00: one\n\n[back](../00_one.ipynb)")])
    root = write(tmp_path_factory.mktemp("small"), {
        "README.md": README, "docs/glossary.md": GLOSSARY,
        "docs/guide.md": "# A guide\n\n## Where\n\n[home](../README.md)",
        "notebooks/00_one.ipynb": first_notebook(), "notebooks/01_two.ipynb": as_jupyterlab_saves_it(),
        "notebooks/solutions/00_solutions.ipynb": solution, "lib/noise.py": "x = 1\ny = 2  # <b>\n",
        "notebooks/seconds.json": json.dumps({"seconds": {"00_one": {"long": 130.0, "plot": 4.0}}}),
        "results/rows.json": "[]", "CITATION.cff": "title: x\nrepository-code: https://github.com/some/one\n"})
    (root / "figures").mkdir()
    Image.new("RGB", (8, 8), "green").save(root / "figures" / "dot.png")
    return root


@pytest.fixture(scope="module")
def site(root):
    build(root, root / "outputs" / "book")
    return root / "outputs" / "book"


@pytest.fixture
def read(site):
    return lambda name: (site / name).read_text()


def test_pages_stand_in_order_with_the_way_on_and_back(read):
    home, one = read("index.html"), read("notebooks/00_one.html")
    solution = read("notebooks/solutions/00_solutions.html")
    entries = re.findall(r'class="toctree-l\d[^"]*"><a class="[^"]*" href="([^"#]+)">', home)
    assert entries == ["notebooks/00_one.html", "notebooks/solutions/00_solutions.html", "notebooks/01_two.html",
                       "docs/glossary.html", "docs/guide.html"]
    assert re.search(r'class="right-next"[^>]*href="solutions/00_solutions.html"', one)
    assert re.search(r'class="left-prev"[^>]*href="../00_one.html"', solution)
    assert "Contents" in one and 'href="#a-formula"' in one


def test_links_lead_to_pages_code_and_files(site, read):
    home, code = read("index.html"), read("repository/lib/noise.py.html")
    for address in ("notebooks/00_one.html#a-formula", "repository/lib/noise.py.html#L2", "repository/lib/index.html",
                    "repository/results/rows.json", "docs/guide.html#where"):
        assert f'href="{address}"' in home
    assert 'id="L2"' in code and "&lt;b&gt;" in code and (site / "repository/results/rows.json").read_text() == "[]"
    assert 'href="../index.html"' in read("docs/guide.html")


def test_nothing_comes_from_the_network(site, read):
    assert "img.example" not in read("index.html") and "colab.example" not in read("index.html")
    assert faults(site) == []


def test_formulas_are_drawn_by_the_browser(read):
    one = read("notebooks/00_one.html")
    assert one.count("<math ") == 2 and "pred_x</mtext>" in one and "\\sum" not in one and "MathJax" not in one
    assert "\N{DOUBLE VERTICAL LINE}" in mathml(r"\Big\|x\Big\|", "block")


def test_figures_controls_and_frames_live(site, read):
    one, two = read("notebooks/00_one.html"), read("notebooks/01_two.html")
    assert PLOTLY_FILE in one and PLOTLY_FILE not in two and (site / "_static" / PLOTLY_FILE).stat().st_size > 1_000_000
    assert "&lt;a &amp; b&gt;" in one and '<iframe aria-label="A formula: the picture that' in one
    assert "application/vnd.jupyter.widget-state+json" in one and "StackModel" in one and NO_KERNEL not in one
    assert NO_KERNEL in two and "a warning" in two and "papermill" not in two


def test_pictures_have_words_and_captions(read):
    one = read("notebooks/00_one.html")
    assert 'alt="A formula: noise level, A plot"' in one and 'alt="What one pixel is."' in one
    assert re.search(r"<figcaption>.*What <em>one</em> pixel is\.", one, re.DOTALL)


def test_a_caption_stands_once_in_a_cell_and_under_its_last_picture(read):
    one = read("notebooks/00_one.html")
    film, dot, table = re.findall(r"<figure.*?</figure>", one, re.DOTALL)[-3:]
    assert '<video aria-label="A film, then a dot"' in film and 'alt="A film, then a dot"' in dot and "a table" in table
    assert "Both move." in dot and one.count("Both move.") == 1
    assert '"alt": "A formula: the picture that this cell makes"' in one  # for widgets.js


def test_code_folds_and_imports_are_folded(read):
    folds = re.findall(r'<details class="fold"( open)?><summary>(\d+) line', read("notebooks/00_one.html"))
    assert folds[:2] == [("", "2"), (" open", "3")] and "toggleCode()" in read("notebooks/00_one.html")


def test_words_are_explained_once_in_a_section(read):
    terms = re.findall(r'<a class="term" href="([^"]+)" data-meaning="([^"]+)">(.+?)</a>', read("index.html"))
    assert terms[0] == ("docs/glossary.html#term-latent", "what the autoencoder makes", "Latents")
    assert [text for *_, text in terms[1:3]] == ["F", "F"] and terms[1][1] == "the network, see one"
    assert "<code" in terms[3][2] and len(terms) == 4
    (term,) = re.findall(r'<a class="term" href="([^"]+)"', read("notebooks/00_one.html"))
    assert term == "../docs/glossary.html#term-f" and 'id="term-code-calm"' in read("docs/glossary.html")


def test_minutes_come_from_words_code_and_recorded_times(read):
    found = re.findall(r'<p class="minutes">(.+?)</p>', read("notebooks/00_one.html"))
    assert found == ["3 min to read, 2 min to run", "2 min to read, 2 min to run", "1 min to read"]


def test_buttons(site, root, read):
    one = read("notebooks/00_one.html")
    assert "https://colab.research.google.com/github/some/one/blob/main/notebooks/00_one.ipynb" in one
    assert "https://mybinder.org/v2/gh/some/one/main?urlpath=lab/tree/notebooks/00_one.ipynb" in one
    assert 'href="../_sources/notebooks/00_one.ipynb"' in one
    original = root / "notebooks" / "00_one.ipynb"
    assert (site / "_sources" / "notebooks" / "00_one.ipynb").read_bytes() == original.read_bytes()


def test_words_can_be_searched_for(read):
    assert "autoencod" in read("searchindex.js") and "search.html" in read("index.html")


@pytest.mark.parametrize("files, message", [
    ({"docs/guide.md": "# Guide\n\n[x](gone.md)"}, r"docs/guide.md:3: .*gone\.md"),
    ({"docs/guide.md": "# Guide\n\n[x](#gone)"}, r"docs/guide.md.*gone"),
    ({"docs/guide.md": "# Guide\n\n![x](gone.png)"}, r"docs/guide.md:3: .*gone\.png"),
    ({"docs/guide.md": "# Guide\n\n![](../dot.png)"}, "docs/guide.html: the picture .* has no words"),
    ({"docs/guide.md": "# Guide\n\n$\\nonsense$"}, "docs/guide.md:3: .*not known: .*nonsense"),
    ({"notebooks/00_one.ipynb": "{}"}, "00_one.ipynb: not a notebook"),
    ({"notebooks/00_one.ipynb": "{"}, "00_one.ipynb: not a JSON file"),
])
def test_what_leads_nowhere_makes_no_book(tmp_path, files, message):
    notebook = new_notebook(cells=[new_markdown_cell("# 00")])
    write(tmp_path, {"README.md": "# Small\n", "notebooks/00_one.ipynb": notebook, **files})
    Image.new("RGB", (8, 8)).save(tmp_path / "dot.png")
    write(tmp_path / "book", {"index.html": "older"})
    with pytest.raises(InputError, match=message):
        build(tmp_path, tmp_path / "book")
    assert [path.name for path in (tmp_path / "book").iterdir()] == ["index.html"]


def test_a_folder_without_notebooks_is_bad_input(tmp_path):
    with pytest.raises(InputError, match="no README.md or no notebooks"):
        build(tmp_path, tmp_path / "book")
    assert not any(tmp_path.iterdir())


def test_faults_are_found(tmp_path):
    links = "".join(f'<a href="{to}">x</a>' for to in ("b.html#there", "b.html#gone", "c.html", "#here", "#gone",
                                                       "https://elsewhere.example"))
    loads = '<img src="x.png" alt="x"><img src="data:," alt=""><script src="//cdn.example/x.js"></script>'
    write(tmp_path, {"a.html": f'<p id="here">{links}{loads}', "b.html": '<p id="there">'})
    assert faults(tmp_path) == [
        "a.html: links to b.html#gone, but there is no gone", "a.html: links to c.html, which is not there",
        "a.html: links to #gone, but there is no gone", "a.html: links to x.png, which is not there",
        "a.html: the picture data:, has no words for who does not see it",
        "a.html: loads //cdn.example/x.js; a page must need no network"]


def test_times_are_recorded_from_what_papermill_wrote(tmp_path):
    executed = new_notebook(cells=[new_code_cell("1", id="a", metadata={"papermill": {"duration": 2.34}}),
                                   new_code_cell("2", id="b", metadata={"papermill": {"duration": 0.01}})])
    write(tmp_path, {"executed/00_one.ipynb": executed, "plain/00_one.ipynb": new_notebook(cells=[new_code_cell("1")])})
    (tmp_path / "notebooks").mkdir()
    minutes.record(tmp_path / "executed", tmp_path)
    assert minutes.recorded(tmp_path) == {"00_one": {"a": 2.3}}
    with pytest.raises(InputError, match="papermill did not run it"):
        minutes.record(tmp_path / "plain", tmp_path)
    with pytest.raises(InputError, match="no notebooks in it"):
        minutes.record(tmp_path / "none", tmp_path)


LESSON = """# 00 One

**Goal.** Words.
**Minutes**: about 3 to run on 2 CPU cores, long to read.
**Where it ends**: here."""


@pytest.mark.parametrize("times, run", [(None, "about 3"), ({"b": 30.2, "c": 100.0}, "2"), ({"b": 9.0}, "less than 1")])
def test_a_notebook_says_its_minutes_as_the_book_counts_them(tmp_path, times, run):
    long, asked = new_markdown_cell("word " * 1470), new_code_cell('def f(x):\n    ...\n\n\ncheck("00-1", f)', id="b")
    solved = new_code_cell('check("00-1", min)\n' + 97 * "x = 1\n", id="c")
    cells = [new_markdown_cell(LESSON), long, asked, solved, new_markdown_cell("**Minutes**: of another kind.")]
    write(tmp_path, {"notebooks/00_one.ipynb": new_notebook(cells=cells),
                     "notebooks/01_two.ipynb": new_notebook(cells=[new_markdown_cell("# 01 Two")])})
    if times:
        write(tmp_path, {"notebooks/seconds.json": json.dumps({"cores": 2, "seconds": {"00_one": times}})})
    minutes.state(tmp_path)
    found = json.loads((tmp_path / "notebooks" / "00_one.ipynb").read_text())["cells"]
    # 1,500 words at 150 a minute and 101 lines at 3 seconds; one exercise, at 8 minutes
    assert "".join(found[0]["source"]) == LESSON.replace("about 3", run).replace(
        "long to read.", "15 to read, 10 for the exercises.")
    assert "".join(found[4]["source"]) == "**Minutes**: of another kind."
    assert minutes.state(tmp_path) == []


def test_a_picture_is_described_by_what_its_code_says():
    cell = shown('axes[0].set_title("left")\nshow(image_grid(x, row_labels=["views", f"{n:.1f} more", "3D"]))',
                 {"image/png": PNG}, "a")
    magic = shown("%matplotlib inline", {"image/png": PNG}, "b")
    nb = new_notebook(cells=[new_markdown_cell("## Views of `F`"), cell, magic])
    prepare(nb)
    alts = [cell["metadata"]["mystnb"]["image"]["alt"] for cell in nb["cells"][1:]]
    assert alts == ["Views of F: left, views, more, 3D", "Views of F: the picture that this cell makes"]


@pytest.mark.parametrize("title", ["", ' "a title"'])
def test_attached_pictures_are_in_the_text_with_a_title_or_without(title):
    cell = new_markdown_cell(f"![p](attachment:p.png{title})", attachments={"p.png": {"image/png": "AA\nBB"}})
    notebook = new_notebook(cells=[cell])
    prepare(notebook)
    assert cell["source"] == f"![p](data:image/png;base64,AABB{title})"
