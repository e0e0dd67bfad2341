"""The public address of the repository, put wherever it is needed: `python -m tools.publish https://github.com/OWNER/NAME`.

Until then README and the notebooks' set-up cells say REPOSITORY. With it come badges that open the first notebook on
Colab and on Binder.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from ouroboros_lib.errors import InputError
from ouroboros_lib.files import replace_file

from . import one_line_for_bad_input

PLACEHOLDER, FIRST = "REPOSITORY", "notebooks/00_quickstart.ipynb"
LICENCE_BADGE = "![licence: "


def publish(root: Path, address: str) -> list[Path]:
    """Returns the files that were changed. Raises InputError for another kind of address, or where there is one."""
    if not (found := re.fullmatch(r"https://github\.com/([\w-]+/[\w.-]+?)(\.git)?/?", address)):
        raise InputError(f"{address}: expected an address such as https://github.com/OWNER/NAME")
    readme = root / "README.md"
    if PLACEHOLDER not in readme.read_text():
        raise InputError(f"{readme}: there is an address in it already")
    name = found[1]
    badges = (f"[![open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]"
              f"(https://colab.research.google.com/github/{name}/blob/main/{FIRST}) "
              f"[![open on Binder](https://mybinder.org/badge_logo.svg)]"
              f"(https://mybinder.org/v2/gh/{name}/main?labpath={FIRST}) ")
    changed = []
    for path in (readme, *sorted(root.glob("notebooks/**/*.ipynb")), root / "CITATION.cff"):
        before = path.read_text()
        text = before.replace(PLACEHOLDER, f"https://github.com/{name}")
        if path == readme:
            text = text.replace(LICENCE_BADGE, badges + LICENCE_BADGE, 1)
        if path.suffix == ".cff" and "repository-code" not in text:
            text = text.replace("type: software\n", f"type: software\nrepository-code: https://github.com/{name}\n", 1)
        if text != before:
            replace_file(path, text.encode())
            changed.append(path)
    return changed


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.publish", description=__doc__.splitlines()[0])
    parser.add_argument("address")
    with one_line_for_bad_input():
        for path in publish(Path(), parser.parse_args().address):
            print(path)


if __name__ == "__main__":
    main()
