"""The glossary's words, explained where a section first uses them: on hover, on focus, or by following the link."""

from __future__ import annotations

import re
from dataclasses import dataclass
from html import escape
from pathlib import Path

from docutils import nodes

ROW = re.compile(r"^\| (.+?) \| (.+?) \|$", re.MULTILINE)
INITIAL = r"[A-Z]\.\s?[A-Z]"  # of a name
PLAIN = re.compile(r"[*`$]|\]\([^)]*\)|\[")  # what markdown adds to words


class Term(nodes.Inline, nodes.TextElement):
    """A word with its meaning."""


@dataclass(frozen=True)
class Entry:
    """A row of the glossary. `words` mean the same; those in backticks are code, and matched as code only."""

    words: tuple[str, ...]
    codes: tuple[str, ...]
    meaning: str

    @property
    def anchor(self) -> str:
        return "term-" + nodes.make_id(self.words[0] if self.words else f"code-{self.codes[0]}")


def read_glossary(path: Path) -> list[Entry]:
    """The rows of the table `| word | meaning |` in a markdown file; none where there is no such file."""
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    entries = []
    for cell, meaning in ROW.findall(text):
        if cell.startswith(("**", "`")):
            names = [name.strip("* ") for name in cell.split(", ")]
            words = tuple(name for name in names if not name.startswith("`"))
            codes = tuple(name.strip("`") for name in names if name.startswith("`"))
            entries.append(Entry(words, codes, PLAIN.sub("", meaning)))
    return entries


class Glossary:
    """Finds words of the glossary in a page's text, also in the plural and at a sentence's start; capitals count."""

    def __init__(self, entries: list[Entry]):
        self.entries = entries
        self._by_word = {word: entry for entry in entries for word in entry.words}
        self._by_code = {code: entry for entry in entries for code in entry.codes}
        forms = {form: word for word in self._by_word for form in (word, word[0].upper() + word[1:])}
        forms |= {form + "s": word for form, word in forms.items() if len(word) > 2 and form + "s" not in forms}
        self._forms = forms
        longest_first = sorted(forms, key=len, reverse=True)
        words = "|".join(map(re.escape, longest_first))
        self._pattern = re.compile(rf"(?<![\w.-])(?!{INITIAL})(?:{words})(?![\w-])") if forms else None

    def mark(self, document: nodes.document, uri: str) -> None:
        """Replace the first use of each word in each section by a Term that leads to `uri`."""
        for section in document.findall(nodes.section):
            seen: set[Entry] = set()
            for node in list(_prose(section)):
                if isinstance(node, nodes.literal):
                    entry = self._by_code.get(node.astext())
                    if entry and entry not in seen:
                        seen.add(entry)
                        term = _term(entry, uri)
                        node.replace_self(term)
                        term += node
                elif self._pattern:
                    node.parent.replace(node, self._split(node, seen, uri))

    def _split(self, text: nodes.Text, seen: set[Entry], uri: str) -> list[nodes.Node]:
        parts, end = [], 0
        for match in self._pattern.finditer(text):
            entry = self._by_word[self._forms[match[0]]]
            if entry not in seen:
                seen.add(entry)
                parts += [nodes.Text(text[end:match.start()]), _term(entry, uri, nodes.Text(match[0]))]
                end = match.end()
        return [*parts, nodes.Text(text[end:])]

    def number_rows(self, document: nodes.document) -> None:
        """On the glossary's own page: give each row the anchor that terms lead to."""
        words = [row.children[0].children[0] for row in document.findall(nodes.row)
                 if isinstance(row.parent, nodes.tbody)]
        for cell, entry in zip(words, self.entries, strict=True):
            cell["ids"].append(entry.anchor)


SKIPPED = (nodes.title, nodes.reference, nodes.literal_block, nodes.math, nodes.math_block, nodes.raw, nodes.image,
           nodes.thead, Term)


def _prose(node: nodes.Node):
    """Texts and inline code of a section without its subsections: no headings, links, formulas, code and outputs."""
    for child in node.children:
        if isinstance(child, (nodes.section, *SKIPPED)) or "cell_output" in _classes(child) \
                or child.tagname in ("pending_xref", "download_reference", "toctree"):
            continue
        if isinstance(child, (nodes.Text, nodes.literal)):
            yield child
        else:
            yield from _prose(child)


def _classes(node: nodes.Node) -> list[str]:
    return node.get("classes", []) if isinstance(node, nodes.Element) else []


def _term(entry: Entry, uri: str, *children: nodes.Node) -> Term:
    return Term("", "", *children, refuri=f"{uri}#{entry.anchor}", meaning=entry.meaning)


def visit_term(translator, node: Term) -> None:
    translator.body.append(f'<a class="term" href="{node["refuri"]}" data-meaning="{escape(node["meaning"])}">')


def depart_term(translator, node: Term) -> None:
    translator.body.append("</a>")
