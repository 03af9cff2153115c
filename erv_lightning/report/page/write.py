"""Makes the page: the template with style, scripts and data in it, one file that needs no other and no network.

Knows nothing of runs. The data travels as base64, so that no text of a model is ever read as HTML.
"""

from __future__ import annotations

import base64
import gzip
import html
import json
import os
import re
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from erv_lightning.report.page.clips import Medium

_MARKER = re.compile(r"\{\{(\w+)\}\}")
_ASSETS = resources.files("erv_lightning.report.page") / "assets"


def write_page(payload: Mapping[str, Any], media: Sequence[Medium], to: Path) -> None:
    """Writes the page, as a whole or not at all.

    Args:
        payload: JSON types; docs/report.md names its parts.
        media: clips within the page.
        to: the HTML file; its folder is made.

    Raises:
        ValueError: NaN or infinity in the payload, which JSON does not know.
        OSError: the file cannot be written.
    """
    page = render(payload, media)
    to.parent.mkdir(parents=True, exist_ok=True)
    unfinished = to.with_name(f".{to.name}.{os.getpid()}.tmp")
    try:
        unfinished.write_text(page, encoding="utf-8")
        unfinished.replace(to)
    finally:
        unfinished.unlink(missing_ok=True)


def render(payload: Mapping[str, Any], media: Sequence[Medium] = ()) -> str:
    """The page's HTML; see `write_page`."""
    from plotly.offline import get_plotlyjs

    # ASCII, since a model's text may hold half of a character, which UTF-8 cannot
    data = json.dumps(payload, allow_nan=False, separators=(",", ":")).encode("ascii")
    parts = {
        "title": html.escape(str(payload.get("title", ""))),
        "style": _asset("page.css"),
        "plotly": get_plotlyjs(),
        "script": "\n".join(_asset(name) for name in _scripts()),
        "data": base64.b64encode(gzip.compress(data, 6, mtime=0)).decode("ascii"),
        "media": "\n".join(_medium(one) for one in media),
    }
    # in one pass: what is put in is not looked through for markers
    return _MARKER.sub(lambda found: parts[found[1]], _asset("page.html"))


def _scripts() -> list[str]:
    """Names of the scripts, in the order in which they run."""
    return sorted(file.name for file in _ASSETS.iterdir() if file.name.endswith(".js"))


def _asset(name: str) -> str:
    return (_ASSETS / name).read_text(encoding="utf-8")


def _medium(one: Medium) -> str:
    return (
        f'<script type="application/octet-stream" data-media="{one.key}" data-type="{html.escape(one.type)}">'
        f"{one.content}</script>"
    )
