"""The project's furniture: files that say the same thing say the same thing, and every module can be read."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from quick_notebooks import QUICK

import ouroboros_lib

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[2]
LIBRARY = ROOT / "ouroboros_lib"
MODULES = sorted([*LIBRARY.rglob("*.py"), *ROOT.glob("tools/*.py")])
MARKERS = {"__init__.pyi", "__init__.py", "__main__.py", "py.typed", "__pycache__"}
CONDA_NAMES = {"pytorch": "torch"}  # of conda-forge, where they differ from those of pip
TEXT_SUFFIXES = set(".py .md .toml .yml .yaml .cff .json .ipynb .csv .txt .html .js .svg".split())
# a folder of somebody's machine; not inside an address or a longer path
MACHINE_PATH = re.compile(r"(?<![\w/.~-])/(?:home|root|Users|work)/[\w.]+/?|\b[A-Z]:\\{1,2}Users\\")


def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def bounds(requirements: list[str]) -> dict[str, tuple]:
    parsed = [Requirement(text) for text in requirements]
    return {r.name.lower(): (r.specifier, str(r.marker or "")) for r in parsed}


def with_its_extras(name: str) -> list[str]:
    """The requirements of an extra, and in place of the project's other extras theirs."""
    entries = project()["optional-dependencies"][name]
    named = {extra for text in entries if text.startswith(project()["name"]) for extra in Requirement(text).extras}
    return [text for text in entries if not text.startswith(project()["name"])] + [
        text for extra in sorted(named) for text in with_its_extras(extra)]


def test_environment_yml_says_what_pyproject_says():
    wanted = project()
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    conda = [entry for entry in environment["dependencies"] if isinstance(entry, str) and entry != "pip"]
    (pip,) = (entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict))
    assert "-e ." in pip
    found = {CONDA_NAMES.get(name, name): value for name, value in bounds(conda).items()}
    assert found.pop("python") == (SpecifierSet(wanted["requires-python"]), "")
    from_pip = bounds([entry for entry in pip if entry != "-e ."])
    assert not found.keys() & from_pip.keys()
    assert found | from_pip == bounds(wanted["dependencies"] + with_its_extras("test"))


def test_citation_and_versions_agree():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "title", "message", "authors"} <= citation.keys()
    assert citation["version"] == project()["version"] == ouroboros_lib.__version__
    assert citation["license"] == project()["license"] == "Apache-2.0"
    licence = (ROOT / "LICENSE").read_text()
    assert "Apache License" in licence and citation["authors"][0]["name"] in licence
    assert any("2406.03184" in str(reference) for reference in citation["references"])


def test_continuous_integration_runs_make_test():
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK) and 'make "${1:-test}"' in script.read_text()
    plan = subprocess.run(["make", "-n", "test"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert all(check in plan for check in ("ruff check", "lint-imports", "-m mypy", "-m pytest"))
    for notebook in ROOT.glob("notebooks/*.ipynb"):
        assert f"notebooks/{notebook.name}" in plan and notebook.stem in QUICK
    for workflow in ROOT.glob(".github/workflows/*.yml"):
        steps = [step for job in yaml.safe_load(workflow.read_text())["jobs"].values() for step in job["steps"]]
        assert any(re.match(r"\.ci/run|make book", step.get("run", "")) for step in steps), workflow


def test_readme_names_the_two_commands():
    readme = (ROOT / "README.md").read_text()
    assert "make demo" in readme and "make test" in readme


@pytest.mark.parametrize("module", MODULES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_modules_are_documented(module):
    assert ast.get_docstring(ast.parse(module.read_text())), "no docstring"


def test_no_python_file_is_long():
    lengths = {path.relative_to(ROOT).as_posix(): len(path.read_text(encoding="utf-8").splitlines())
               for path in tracked_texts() if path.suffix == ".py"}
    assert len(lengths) > len(MODULES)
    assert {name: length for name, length in lengths.items() if length > 400} == {}


def test_the_house_has_few_rooms_and_the_contract_knows_them_all():
    rooms = {path.stem for path in LIBRARY.iterdir() if path.name not in MARKERS}
    assert len(rooms) <= 23
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    floors = next(contract["layers"] for contract in settings["contracts"] if contract["type"] == "layers")
    assert sorted(room.strip() for floor in floors for room in floor.split("|")) == sorted(rooms)


def test_a_wheel_takes_every_file_of_the_library():
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    taken = {path for pattern in patterns["ouroboros_lib"] for path in LIBRARY.glob(pattern)}
    listing = subprocess.run(["git", "ls-files", "ouroboros_lib"], cwd=ROOT, capture_output=True, text=True)
    tracked = {ROOT / line for line in listing.stdout.splitlines()}  # none in a plain copy
    assert {path for path in tracked if path.suffix != ".py" and path.is_file()} <= taken


def test_type_checkers_see_what_the_library_exports():
    """The stub's imports, which are made at run time when a name is first asked for, give what they say."""
    stub = ast.parse((LIBRARY / "__init__.pyi").read_text())
    imports = [node for node in stub.body if isinstance(node, ast.ImportFrom)]
    seen = [name.name for statement in imports for name in statement.names]
    assert all(name.asname == name.name for statement in imports for name in statement.names)  # else not passed on
    assert sorted(seen) == sorted(ouroboros_lib.__all__) and (LIBRARY / "py.typed").is_file()
    assert all(getattr(ouroboros_lib, name).__name__ == name for name in seen)


def tracked_texts() -> list[Path]:
    """Of a repository what git tracks or would; of a plain copy every file outside the folders that `make` fills."""
    listing = subprocess.run(["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=ROOT,
                             capture_output=True, text=True)
    if listing.returncode == 0:
        paths = [ROOT / line for line in listing.stdout.splitlines()]
    else:
        made = {".venv", "outputs", "build", "dist", "__pycache__"}
        paths = [path for path in ROOT.rglob("*") if not made & set(path.relative_to(ROOT).parts)]
    bare = {"Makefile", "LICENSE", "run"}
    return [path for path in paths if path.is_file() and (path.suffix in TEXT_SUFFIXES or path.name in bare)]


def test_no_file_names_a_folder_of_somebodys_machine():
    assert MACHINE_PATH.search('"/' + 'home/someone/data"') and MACHINE_PATH.search("(/" + "root/x)")
    assert not MACHINE_PATH.search("https://example.org/" + "home/index.html")
    texts = tracked_texts()
    assert ROOT / "Makefile" in texts and len(texts) > 20
    found = {path.relative_to(ROOT).as_posix(): match.group() for path in texts
             if (match := MACHINE_PATH.search(path.read_text(encoding="utf-8")))}
    assert not found
