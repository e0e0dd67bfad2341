"""Whether every link, anchor and picture of a site leads somewhere, and whether it loads nothing from elsewhere."""

from __future__ import annotations

import re
from functools import lru_cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

NETWORK = re.compile(r"(?:https?:)?//")
LOADS = {"link": "href"} | dict.fromkeys(("script", "img", "iframe", "video", "audio", "source"), "src")


class _Page(HTMLParser):
    def __init__(self, path: Path):
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[tuple[str, str]] = []  # (tag, address)
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.anchors |= {values[name] for name in ("id", "name") if values.get(name)}
        name = LOADS.get(tag, "href" if tag == "a" else "")
        if values.get(name):
            self.links.append((tag, values[name]))
        if tag == "img" and not values.get("alt"):
            self.links.append(("alt", values.get("src", "")[:60]))


def faults(site: Path) -> list[str]:
    """One line for each link that leads nowhere, picture without words, and file that would come from the network."""
    read, site = lru_cache(maxsize=None)(_Page), site.resolve()
    found = []
    for path in sorted(site.rglob("*.html")):
        if "_static" in path.parts:
            continue
        name = path.relative_to(site)
        for tag, address in read(path).links:
            if tag == "alt":
                found.append(f"{name}: the picture {address} has no words for who does not see it")
            elif NETWORK.match(address):
                if tag != "a":
                    found.append(f"{name}: loads {address}; a page must need no network")
            elif not re.match(r"(data|mailto|javascript|blob):", address) and (wrong := _wrong(path, address, read)):
                found.append(f"{name}: links to {address}, {wrong}")
    return found


def _wrong(path: Path, address: str, read) -> str:
    """What is wrong with an address on a page; "" if nothing is."""
    file, _, anchor = address.partition("#")
    file = unquote(file.partition("?")[0])
    target = path.parent / file if file else path
    if not target.is_file():
        return "which is not there"
    if anchor and target.suffix == ".html" and unquote(anchor) not in read(target.resolve()).anchors:
        return f"but there is no {anchor}"
    return ""
