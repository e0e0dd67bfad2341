"""docs/safety.md: a row for every command that writes, and a test for every cell."""

import re
from pathlib import Path

import typer

from ouroboros_lib.cli.main import app

ROOT = Path(__file__).parents[2]
ROWS = [line.strip("| ").split(" | ") for line in (ROOT / "docs" / "safety.md").read_text().splitlines()
        if line.startswith("| `")]
READ_ONLY = {"doctor", "data check", "data protocols", "data conventions"}


def names(command, above=""):
    for name, found in command.commands.items():
        yield from names(found, f"{above}{name} ") if hasattr(found, "commands") else [above + name]


def test_every_command_that_writes_has_a_row():
    commands = {"convert" if name.startswith("convert ") else name for name in names(typer.main.get_command(app))}
    assert {row[0].strip("`") for row in ROWS} == commands - READ_ONLY


def test_every_cell_has_its_test():
    for command, *cells in ROWS:
        assert len(cells) == 4, command
        for cell in cells:
            file, test = re.fullmatch(r'\[[^]]+\]\(\.\./(tests/[\w/]+\.py) "(test_\w+)"\)', cell).groups()
            assert f"\ndef {test}(" in (ROOT / file).read_text(), cell
