"""Formulas as MathML, which browsers draw by themselves: no script and no font to fetch."""

from __future__ import annotations

import re

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.util import logging

FUNCTION = r"\\(?:sin|cos|tanh?|log|ln|exp)\b"
logger = logging.getLogger(__name__)


def mathml(tex: str, display: str) -> str:
    """TeX as a `<math>` element; `display` is "inline" or "block"."""
    # what latex2mathml would pass on as it is, and the space that TeX puts around a function's name
    tex = re.sub(r"\\text\{[^}]*\}", lambda text: text[0].replace(r"\_", "_"), tex)
    tex = tex.replace(r"\|", "\N{DOUBLE VERTICAL LINE}")
    tex = re.sub(rf"(?<=[\w}}] )(?={FUNCTION})", r"\,", tex)
    tex = re.sub(rf"({FUNCTION}) *(?=[a-zA-Z\\])", r"\1\,", tex)
    return convert(tex, display=display).replace("<mi>&#x0007E;</mi>", "<mo>\N{TILDE OPERATOR}</mo>")


def visit_inline(translator, node: nodes.math) -> None:
    translator.body.append(_checked(node, "inline"))
    raise nodes.SkipNode


def visit_block(translator, node: nodes.math_block) -> None:
    translator.body.append(f'<div class="math">{_checked(node, "block")}</div>')
    raise nodes.SkipNode


def _checked(node: nodes.Element, display: str) -> str:
    found = mathml(node.astext(), display)
    if "\\" in found:
        logger.warning("a formula has a command that is not known: %s", node.astext(), location=node)
    return found
