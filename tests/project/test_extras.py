"""What is installed for what: the core generates alone, and a missing extra is one line that names it."""

import ast
import os
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from importlib_metadata import packages_distributions  # of diffusers; that of Python 3.10 does not know every module
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from ouroboros_lib.cli.doctor import EXTRAS
from ouroboros_lib.data.folders import write_object
from ouroboros_lib.errors import InputError, needs

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[2]
LIBRARY = ROOT / "ouroboros_lib"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
OPTIONAL = PROJECT["optional-dependencies"]
WITHOUT_EXTRAS = """
import sys
from importlib import import_module
from importlib.machinery import PathFinder

class Seen(PathFinder):
    @classmethod
    def find_spec(cls, name, *where):
        return None if name.partition(".")[0] in hidden else super().find_spec(name, *where)

hidden, picture, out = set(sys.argv[1].split()), *sys.argv[2:]
sys.meta_path[sys.meta_path.index(PathFinder)] = Seen
import ouroboros_lib
from ouroboros_lib.cli.main import main

def ends(*arguments):
    try:
        main(arguments)
    except SystemExit as leaving:
        return leaving.code

assert all(hasattr(ouroboros_lib, name) for name in ouroboros_lib.__all__)
ouroboros_lib.Ouroboros3DPipeline.from_pretrained("small")
assert ends("generate", picture, "--preset", "tiny", "--steps", "1", "--device", "cpu", "--out", out) == 0
for arguments in (["convert", "svd", out, "--out", out + "1"], ["train", "--preset", "tiny", "--out", out + "2"],
                  ["data", "shards", picture.rpartition("/")[0] + "/objects", "--out", out + "3"],
                  ["data", "library", out + "4", "--only", "kaykit"],
                  ["data", "render", picture.replace("png", "obj"), "--out", out + "5", "--cluster", "local:2"],
                  ["data", "shards", picture.rpartition("/")[0] + "/objects", "--out", "s3://bucket/6"]):
    assert ends(*arguments) == 2
from ouroboros_lib.data.meshes import load_mesh
from ouroboros_lib.evaluation.metrics import flip, ssim
mesh = load_mesh(picture.replace("png", "obj"))
for attempt in (lambda: mesh.cast([0, 0, 0], [[0, 0, 1]]), lambda: ssim(None, None), lambda: flip(None, None),
                *(lambda name=name: import_module(f"ouroboros_lib.{name}")
                  for name in ("viz.notebook", "viz.orbit", "viz.curves", "course.ring"))):
    try:
        attempt()
    except ouroboros_lib.InputError as error:
        print(f"error: {error}", file=sys.stderr)
"""


def names(requirements: list[str]) -> set[str]:
    """Distributions, and the project's own extras as "[extra]"."""
    parsed = [Requirement(text) for text in requirements]
    return {f"[{extra}]" if canonicalize_name(r.name) == PROJECT["name"] else canonicalize_name(r.name)
            for r in parsed for extra in (r.extras or {""})}


def core() -> set[str]:
    """The distributions that a plain `pip install .` brings, with all that they need, as far as they are here."""
    found, waiting = set(), list(PROJECT["dependencies"])
    while waiting:
        requirement = Requirement(waiting.pop())
        name = canonicalize_name(requirement.name)
        if name not in found and (requirement.marker is None or requirement.marker.evaluate({"extra": ""})):
            found.add(name)
            waiting += metadata.requires(name) or []
    return found


def providers() -> dict[str, set[str]]:
    """The distributions behind each module that can be imported here."""
    return {module: set(map(canonicalize_name, found)) for module, found in packages_distributions().items()}


def test_the_core_generates_and_what_an_extra_is_missing_for_is_one_line(tmp_path, rendered):
    kept = core() | {PROJECT["name"]}
    hidden = [module for module, found in providers().items() if not found & kept]
    assert {"lpips", "transformers", "matplotlib", "torchvision", "skimage"} <= set(hidden)
    picture = LIBRARY / "data" / "samples" / "snowman.png"
    (tmp_path / "thing.png").write_bytes(picture.read_bytes())
    (tmp_path / "thing.obj").write_text("v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n")
    write_object(tmp_path / "objects" / "thing", rendered[0])
    done = subprocess.run([sys.executable, "-c", WITHOUT_EXTRAS, " ".join(hidden), tmp_path / "thing.png",
                           tmp_path / "out"], capture_output=True, text=True, cwd=tmp_path, timeout=200,
                          env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "viewer.html").is_file()
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    extras = [re.search(r"pip install -e '\.\[(\w+)\]'", line)[1] for line in lines]
    assert extras == ["paper", "train", "train", "eval", *["cluster"] * 2, *["eval"] * 3, *["course"] * 4], done.stderr


def test_every_package_that_the_library_imports_is_declared():
    declared = names([*PROJECT["dependencies"], *(text for extra in OPTIONAL.values() for text in extra)])
    known = providers()
    for path in [*LIBRARY.rglob("*.py"), *ROOT.glob("tools/**/*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            modules = ([alias.name for alias in node.names] if isinstance(node, ast.Import)
                       else [node.module] if isinstance(node, ast.ImportFrom) and not node.level else [])
            for module in {name.partition(".")[0] for name in modules} - sys.stdlib_module_names:
                assert module in BROUGHT or known.get(module, {canonicalize_name(module)}) & declared, (path, module)


# by torch on Linux, by diffusers, by jupyterlab, by sphinx
BROUGHT = {"triton", "huggingface_hub", "IPython", "jinja2", "nbconvert", "nbformat", "jupyter_client", "docutils",
           "pygments", "ouroboros_lib", "tools"}


def test_doctor_knows_the_extras():
    assert EXTRAS.keys() == OPTIONAL.keys() - {"photo", "book", "all", "test"}
    known = providers()
    for extra, (_, modules) in EXTRAS.items():
        wanted = {name for name in names(OPTIONAL[extra]) if name[0] != "["} - {"embreex"}  # which has its own line
        assert {name for module in modules for name in known.get(module, {module})} == wanted, extra


def test_all_and_test_take_what_there_is():
    assert names(OPTIONAL["all"]) == {"[course]", "[export]", "[photo]", "[app]", "[cluster]"}
    assert names(OPTIONAL["test"]) >= {"[course]", "[export]", "[book]", "[cluster]"}
    assert names(OPTIONAL["course"]) >= {"[train]", "[paper]"} and "[eval]" in names(OPTIONAL["train"])


def test_needs_names_the_package_and_the_extra():
    with pytest.raises(InputError, match=r"^LPIPS needs the package no_such_package, .*pip install -e '\.\[eval\]'"):
        with needs("eval", "LPIPS"):
            import no_such_package  # noqa: F401


def test_no_advice_names_a_package_that_is_not_ours():
    """Nobody has put this project on an index: whoever takes its name there would be installed."""
    texts = [*LIBRARY.rglob("*.py"), *ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.rglob("notebooks/**/*.ipynb")]
    for path in texts:
        assert not re.search(r"pip install [^\n`]*ouroboros[-_]lib", path.read_text(encoding="utf-8")), path
