"""`python -m tools.book OUT`: the site, from the repository's root."""

import argparse
from pathlib import Path

from .. import one_line_for_bad_input
from .site import build


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.book", description=build.__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--root", type=Path, default=Path(), help="of the repository")
    arguments = parser.parse_args()
    with one_line_for_bad_input():
        build(arguments.root, arguments.out)
        print(arguments.out / "index.html")


if __name__ == "__main__":
    main()
