"""The notebooks as pages: what they say, their code, and what it gave when they were run.

`notebooks/execute.py` runs them; the folder with its copies is $ERV_NOTEBOOKS, or build/notebooks. A notebook without
such a copy is shown without outputs, and says so. Charts are drawn by Plotly's own script, out of its Python package;
only these pages load it.
"""

from __future__ import annotations

import json
import os
import posixpath
import re
from pathlib import Path
from typing import Any

import nbformat
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from nbconvert import MarkdownExporter
from nbconvert.filters import strip_ansi
from nbconvert.preprocessors import Preprocessor
from plotly.offline import get_plotlyjs

PLOTLY = "application/vnd.plotly.v1+json"
SCRIPTS = ("assets/plotly.min.js", "assets/notebook.js")
NOT_RUN = '!!! note "Not run"\n    This page was made without running the notebook; `make docs` runs it.'

_figures: dict[str, list[Any]] = {}  # of each page, by its address


class Outputs(Preprocessor):
    """Puts charts aside, and makes tables and text such as a page can show."""

    def preprocess(self, nb: Any, resources: Any) -> Any:
        """Changes the notebook's outputs; `resources` gets the charts."""
        self.figures: list[Any] = []
        for cell in nb.cells:
            for output in cell.get("outputs", []):
                if output.output_type == "stream":
                    output.text = strip_ansi(output.text)
                elif "data" in output:
                    output.data = self._shown(output.data)
        resources["figures"] = self.figures
        return nb, resources

    def _shown(self, data: Any) -> Any:
        if PLOTLY in data:
            self.figures.append(data[PLOTLY])
            height = data[PLOTLY].get("layout", {}).get("height", 450)
            div = f'<div class="plotly-figure" data-figure="{len(self.figures) - 1}" style="height: {height}px"></div>'
            return nbformat.from_dict({"text/html": div})
        if "text/html" in data:
            html = re.sub(r"<style.*?</style>", "", data["text/html"], flags=re.DOTALL)
            html = re.sub(r'<table border="1" class="dataframe">', "<table>", html)
            data["text/html"] = re.sub(r"\n\s*\n", "\n", html)  # a blank line would end the block
        elif "text/plain" in data:
            data["text/plain"] = strip_ansi(data["text/plain"])
        return data


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds a page for each notebook, its pictures, an overview, and Plotly's script."""
    root = Path(config.docs_dir).parent
    executed = Path(os.environ.get("ERV_NOTEBOOKS", root / "build" / "notebooks"))
    sources = sorted((root / "notebooks").glob("*.ipynb"))
    rows = []
    for source in sources:
        uri = f"notebooks/{source.stem}.md"
        text, pictures, _figures[uri] = as_markdown(source, executed / source.name)
        rows.append(f"- [{_title(text) or source.stem}]({source.stem}.md)")
        files.append(File.generated(config, uri, content=text))
        for name, content in pictures.items():
            files.append(File.generated(config, f"notebooks/{name}", content=content))
    if sources:
        readme = root / "notebooks" / "README.md"
        text = "# Notebooks\n\n" + "\n".join(rows) + "\n"
        if readme.exists():  # there the notebooks themselves are linked, here their pages
            text = readme.read_text(encoding="utf-8").replace(".ipynb)", ".md)")
        files.append(File.generated(config, "notebooks/index.md", content=text))
        files.append(File.generated(config, SCRIPTS[0], content=get_plotlyjs()))
    return files


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:
    """Gives a page with charts the charts and what draws them."""
    figures = _figures.get(page.file.src_uri)
    if not figures:
        return output
    data = json.dumps(figures, separators=(",", ":")).replace("<", "\\u003c")
    parts = [f'<script type="application/json" id="plotly-figures">{data}</script>']
    for script in SCRIPTS:
        address = posixpath.relpath(script, posixpath.dirname(page.file.dest_uri) or ".")
        parts.append(f'<script src="{address}"></script>')
    return output.replace("</body>", "\n".join(parts) + "\n</body>")


def as_markdown(source: Path, executed: Path) -> tuple[str, dict[str, bytes], list[Any]]:
    """Text of the page, its pictures by file name, and its charts as Plotly's JSON."""
    was_run = executed.exists()
    notebook = nbformat.read(executed if was_run else source, as_version=4)
    exporter = MarkdownExporter()
    exporter.register_preprocessor(Outputs, enabled=True)
    text, resources = exporter.from_notebook_node(
        notebook, {"unique_key": source.stem, "output_files_dir": f"{source.stem}_files"}
    )
    if not was_run:
        heading, _, rest = text.partition("\n\n")
        text = f"{heading}\n\n{NOT_RUN}\n\n{rest}"
    return text, resources.get("outputs", {}), resources["figures"]


def _title(text: str) -> str:
    found = re.search(r"^# (.+)$", text, re.MULTILINE)
    return found[1] if found else ""
