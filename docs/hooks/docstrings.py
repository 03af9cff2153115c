"""Docstrings as Markdown: an extension of griffe, which reads them for the reference.

Formulas stand as `.. math::` and examples below `Example:`, as torchmetrics has them. Here the first become `$$`
blocks, which l2m4m turns into MathML, the second a section that griffe knows. Arguments that share a description, as
`a, b: …`, get an entry each.
"""

from __future__ import annotations

import re
import textwrap

import griffe

SECTION = re.compile(r"^(?:Args|Attributes):\n(?:[ \t]+\S.*\n?|\n)+", re.MULTILINE)
SHARED = re.compile(r"^([ \t]+)(\w+)((?:, \w+)+)(: .*\n?(?:\1[ \t]+\S.*\n?)*)", re.MULTILINE)
MATH = re.compile(r"^([ \t]*)\.\. math::\n((?:\1[ \t]+\S.*\n?)+)", re.MULTILINE)


class MarkdownDocstrings(griffe.Extension):
    """Rewrites each docstring once, when its object has been read."""

    def on_instance(self, *, obj: griffe.Object, **_: object) -> None:
        """Called for every module, class, function and attribute."""
        if obj.docstring is not None:
            obj.docstring.value = as_markdown(obj.docstring.value)


def as_markdown(text: str) -> str:
    r"""The text with `$$` for `.. math::` and `Examples:` for `Example:`.

    A formula of several lines becomes one.
    """

    def formula(found: re.Match[str]) -> str:
        lines = " ".join(textwrap.dedent(found[2]).split("\n")).strip()
        return f"{found[1]}$${lines}$$\n"

    text = re.sub(r"^Example:$", "Examples:", MATH.sub(formula, text), flags=re.MULTILINE)
    return SECTION.sub(lambda section: SHARED.sub(_each, section[0]), text)


def _each(found: re.Match[str]) -> str:
    indent, first, others, description = found.groups()
    entries = [f"{indent}{first}{description.rstrip()}"]
    entries += [f"{indent}{other}: see `{first}`." for other in others.removeprefix(", ").split(", ")]
    return "\n".join(entries) + "\n"
