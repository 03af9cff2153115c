"""The documentation as a site: it builds whole, asks nothing of the network, and tells what the code does."""

from __future__ import annotations

import ast
import os
import posixpath
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import nbformat
import pytest
import torch
import yaml
from cli_fixtures import ROOT, Checkout
from mkdocs.commands.build import build
from mkdocs.config import load_config
from mkdocs.exceptions import Abort
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from erv_lightning.labels import DFEW
from erv_lightning.rl.rewards import VARIANTS, explanation_reward

pytest_plugins = ("browser_fixtures", "cli_fixtures")

DOCS = ROOT / "docs"
CONFIG = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
CONCEPTS = (DOCS / "concepts.md").read_text(encoding="utf-8")
QUICKSTART = (DOCS / "quickstart.md").read_text(encoding="utf-8")
FAQ = (DOCS / "faq.md").read_text(encoding="utf-8")
REFERENCE = {path: re.findall(r"^::: (\S+)", path.read_text(), re.MULTILINE) for path in DOCS.glob("reference/*.md")}


class Page(HTMLParser):
    """What a built page loads and shows.

    Attributes:
        loads: tag and address of everything that is fetched without a click.
        ids: places that a link may lead to.
        formulas: how many MathML elements there are.
        words: the text, code left out.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.loads: list[tuple[str, str]] = []
        self.ids: set[str] = set()
        self.formulas = 0
        self._words: list[str] = []
        self._hidden = 0
        self.feed(path.read_text(encoding="utf-8"))
        self.words = " ".join("".join(self._words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.ids.add(values.get("id", ""))
        self.formulas += tag == "math"
        self._hidden += tag in {"pre", "script", "style"}
        if "src" in values or (tag == "link" and values.get("rel") not in {"canonical", "next", "prev"}):
            self.loads.append((tag, values.get("src") or values.get("href", "")))

    def handle_endtag(self, tag: str) -> None:
        self._hidden -= tag in {"pre", "script", "style"}

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self._words.append(data)


# -- the site as continuous integration builds it ------------------------------------------------------------------


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The whole site, notebooks without their outputs."""
    folder = tmp_path_factory.mktemp("site")
    environment = os.environ | {"ERV_NOTEBOOKS": str(folder / "nowhere"), "NO_MKDOCS_2_WARNING": "1"}
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder / "site")]
    done = subprocess.run(command, cwd=ROOT, env=environment, text=True, capture_output=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return folder / "site"


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[str, Page]:
    return {path.relative_to(site).as_posix(): Page(path) for path in site.rglob("*.html")}


def test_every_page_is_built(pages: dict[str, Page]) -> None:
    written = [path.relative_to(DOCS).with_suffix(".html").as_posix() for path in DOCS.rglob("*.md")]
    outside = [f"benchmarks/{path.stem}.html" for path in (ROOT / "benchmarks" / "results").glob("*.md")]
    notebooks = [f"notebooks/{path.stem}.html" for path in (ROOT / "notebooks").glob("*.ipynb")]

    assert not [page for page in [*written, *outside, *notebooks, "contributing.html"] if page not in pages]


def test_every_page_of_the_folder_stands_in_the_navigation() -> None:
    listed = re.findall(r"[\w/]+\.md", yaml.dump(CONFIG["nav"]))
    assert sorted(set(listed)) == sorted(listed)
    assert not {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")} - set(listed)


def test_no_page_asks_anything_of_another_machine(site: Path, pages: dict[str, Page]) -> None:
    elsewhere = [(name, load) for name, page in pages.items() for load in page.loads if re.match(r"(\w+:)?//", load[1])]
    styles = [
        path.name
        for path in site.rglob("*.css")
        if re.search(r"(@import|url\()\s*['\"]?(https?:)?//", path.read_text())
    ]

    assert sum(len(page.loads) for page in pages.values()) > 100
    assert elsewhere == []
    assert styles == []


def test_only_pages_and_what_they_show_are_in_the_site(site: Path) -> None:
    assert not [path.name for path in site.rglob("*") if path.suffix in {".py", ".md", ".ipynb", ".yaml"}]


def test_what_a_page_loads_is_there(site: Path, pages: dict[str, Page]) -> None:
    for name, page in pages.items():
        for _, address in page.loads:
            path = unescape(address).split("?")[0].split("#")[0]
            if path and not path.startswith("data:") and name != "404.html":
                assert (site / posixpath.normpath(posixpath.join(posixpath.dirname(name), path))).exists(), (name, path)


def test_formulas_are_mathml(pages: dict[str, Page]) -> None:
    assert pages["concepts.html"].formulas >= CONCEPTS.count("\n$$") / 2
    assert pages["reference/rewards.html"].formulas >= 1
    assert pages["reference/metrics.html"].formulas >= 6
    for name, page in pages.items():
        assert not re.search(r"\$\$|\\frac|\.\. math::", page.words), name


def test_links_out_of_the_folder_lead_to_pages_of_the_site(site: Path, pages: dict[str, Page]) -> None:
    grpo = (site / "grpo.html").read_text(encoding="utf-8")
    assert 'href="contributing.html#how-to-add-a-reward"' in grpo
    assert "how-to-add-a-reward" in pages["contributing.html"].ids
    assert 'href="architecture.html"' in (site / "contributing.html").read_text(encoding="utf-8")
    assert 'href="benchmarks/data.html"' in (site / "data.html").read_text(encoding="utf-8")


def test_every_config_has_its_place(pages: dict[str, Page], site: Path) -> None:
    for path in [*(ROOT / "configs").rglob("*.yaml"), *(ROOT / "sweeps").glob("*.yaml")]:
        page = f"configs/{'stages' if path.parent.name == 'configs' else path.parent.name}.html"
        assert re.sub(r"[^\w-]", "-", path.name) in pages[page].ids, path
        command = re.search(r"python -m erv_lightning .*", path.read_text(encoding="utf-8"))
        assert command is not None
        text = re.sub(r"<[^>]+>", "", (site / page).read_text(encoding="utf-8"))
        assert command[0].strip() in unescape(text), path


# -- reference -----------------------------------------------------------------------------------------------------


def source_of(module: str) -> Path:
    path = ROOT / module.replace(".", "/")
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def letters(text: str) -> str:
    return re.sub(r"[\W_]", "", text)


@pytest.mark.parametrize("page", sorted(REFERENCE), ids=lambda path: path.stem)
def test_everything_public_of_a_module_is_explained(pages: dict[str, Page], page: Path) -> None:
    built = pages[f"reference/{page.stem}.html"]
    shown = letters(built.words)
    for module in REFERENCE[page]:
        tree = ast.parse(source_of(module).read_text(encoding="utf-8"))
        for node in tree.body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_"):
                assert f"{module}.{node.name}" in built.ids
                assert letters((ast.get_docstring(node) or "").split("\n\n")[0]) in shown, f"{module}.{node.name}"


@pytest.mark.parametrize("room", ["metrics", "judges", "models", "modules", "data.readers"])
def test_every_class_that_a_room_offers_is_in_the_reference(pages: dict[str, Page], room: str) -> None:
    tree = ast.parse(source_of(f"erv_lightning.{room}").read_text(encoding="utf-8"))
    (offered,) = (ast.literal_eval(node.value) for node in tree.body if isinstance(node, ast.Assign))
    ids = {id_.rpartition(".")[2] for name, page in pages.items() if name.startswith("reference/") for id_ in page.ids}
    assert not set(offered) - ids


# -- broken links --------------------------------------------------------------------------------------------------


def small_site(folder: Path, index: str, **settings: Any) -> Path:
    """A site of one page with the rules and the theme of the real one; raises Abort where a rule is broken."""
    (folder / "docs").mkdir(exist_ok=True)
    (folder / "docs" / "index.md").write_text(index, encoding="utf-8")
    shutil.copytree(DOCS / "assets", folder / "docs" / "assets", dirs_exist_ok=True)
    own = {"INHERIT": str(ROOT / "mkdocs.yml"), "docs_dir": "docs", "site_dir": "site", "watch": [], "hooks": []}
    own |= {"plugins": ["search", "offline"], "nav": ["index.md"], **settings}
    (folder / "mkdocs.yml").write_text(yaml.dump(own), encoding="utf-8")
    build(load_config(str(folder / "mkdocs.yml")))
    return folder / "site"


def test_a_page_whose_links_lead_somewhere_builds(tmp_path: Path) -> None:
    site = small_site(tmp_path, "# A page\n\n[here](#a-page) [style](assets/site.css)\n")
    assert (site / "index.html").is_file()


@pytest.mark.parametrize(
    "link", ["nowhere.md", "nowhere/", "#nowhere", "index.md#nowhere", "/index.md", "../outside.md"]
)
def test_a_broken_link_is_an_error(tmp_path: Path, link: str) -> None:
    with pytest.raises(Abort):
        small_site(tmp_path, f"# A page\n\n[there]({link})\n")


def test_a_page_outside_the_navigation_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "forgotten.md").write_text("# Forgotten\n")
    with pytest.raises(Abort):
        small_site(tmp_path, "# A page\n")


# -- notebooks -----------------------------------------------------------------------------------------------------


def made_up_notebook(run: bool) -> Any:
    """A chart, a table, a picture, text and an error message's colours, as nbclient leaves them."""
    chart = {"data": [{"type": "bar", "x": ["a", "b"], "y": [1, 2], "name": "</script><b>"}], "layout": {"height": 300}}
    table = (
        '<div>\n<style scoped>x</style>\n<table border="1" class="dataframe"><tr><td>0.25</td></tr></table>\n\n</div>'
    )
    dot = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
    outputs = [
        new_output("display_data", {"application/vnd.plotly.v1+json": chart, "text/html": "<div>fallback</div>"}),
        new_output("execute_result", {"text/html": table, "text/plain": "table"}, execution_count=1),
        new_output("display_data", {"image/png": dot, "text/plain": "picture"}),
        new_output("stream", name="stdout", text="\x1b[31mred\x1b[0m <words>\n"),
    ]
    code = new_code_cell("make(figure)", outputs=outputs if run else [], execution_count=1 if run else None)
    return new_notebook(cells=[new_markdown_cell("# Curves\n\nWhat they say."), code])


@pytest.fixture(scope="module")
def notebook_site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A site with a notebook that was run and one that was not."""
    folder = tmp_path_factory.mktemp("notebooks")
    for place in ("notebooks", "build/notebooks"):
        (folder / place).mkdir(parents=True)
    for name in ("01_run", "02_not_run"):
        nbformat.write(made_up_notebook(run=False), folder / "notebooks" / f"{name}.ipynb")
    nbformat.write(made_up_notebook(run=True), folder / "build" / "notebooks" / "01_run.ipynb")
    nav = ["index.md", "notebooks/index.md", "notebooks/01_run.md", "notebooks/02_not_run.md"]
    before = os.environ.pop("ERV_NOTEBOOKS", None)
    try:
        return small_site(folder, "# A page\n", nav=nav, hooks=[str(DOCS / "hooks" / "notebooks.py")])
    finally:
        if before is not None:
            os.environ["ERV_NOTEBOOKS"] = before


def test_a_notebook_shows_what_it_gave(notebook_site: Path) -> None:
    page = (notebook_site / "notebooks" / "01_run.html").read_text(encoding="utf-8")
    words = Page(notebook_site / "notebooks" / "01_run.html").words

    assert "What they say." in words
    assert "0.25" in words
    assert "fallback" not in page
    assert "red &lt;words&gt;" in page
    assert "\x1b" not in page
    assert len(list((notebook_site / "notebooks" / "01_run_files").glob("*.png"))) == 1
    assert "</script><b>" not in page
    assert "Not run" not in words


def test_a_notebook_that_was_not_run_says_so_and_loads_no_charts(notebook_site: Path) -> None:
    page = notebook_site / "notebooks" / "02_not_run.html"
    assert "Not run" in Page(page).words
    assert "plotly" not in page.read_text(encoding="utf-8")
    assert "plotly" not in (notebook_site / "index.html").read_text(encoding="utf-8")


def test_a_chart_is_drawn_in_the_colours_of_the_page(notebook_site: Path, visit: Callable[..., Any]) -> None:
    page = visit(notebook_site / "notebooks" / "01_run.html", color_scheme="light")
    page.wait_for_selector(".plotly-figure .main-svg .bars path")
    ink = "getComputedStyle(document.querySelector('.xtick text')).fill"
    light = page.evaluate(ink)
    page.locator("label[for=__palette_1]").click()

    page.wait_for_function(f"{ink} !== {light!r}")
    page.wait_for_function("document.images.length === 1 && document.images[0].naturalWidth === 1")


# -- in a browser --------------------------------------------------------------------------------------------------


def test_a_page_opened_from_the_disk_shows_its_formulas_and_can_be_searched(
    site: Path, visit: Callable[..., Any]
) -> None:
    page = visit(site / "concepts.html")
    assert page.locator("math").first.bounding_box()["height"] > 5
    assert all(page.evaluate("[...document.images].map(image => image.naturalWidth > 0)"))
    page.locator(".md-search__input").click()
    page.keyboard.type("micro_batch_prompts")

    page.wait_for_selector('.md-search-result__link[href*="grpo.html"]')


# -- what the pages say --------------------------------------------------------------------------------------------


def literals() -> list[str]:
    """Every text in the package's source, values as `…`, white space as one space."""
    found = []
    for path in (ROOT / "erv_lightning").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                found.append(
                    "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values)
                )
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return [" ".join(re.sub(r"\{\w*\}", "…", text).split()) for text in found]


def test_the_messages_of_the_faq_are_those_of_the_code() -> None:
    texts = literals()
    messages = re.findall(r"^```console\n(.*?)\n```", FAQ, re.DOTALL | re.MULTILINE)
    unknown = []
    for message in messages:
        words = [part for part in re.split("…+", message) if part]
        assert sum(map(len, words)) > 8, f"too little of a message to look for: {message}"
        pattern = re.compile(".*".join(re.escape(part) for part in words))
        if not any(pattern.search(text) for text in texts):
            unknown.append(message)

    assert len(messages) > 40
    assert unknown == []


def test_the_example_of_the_concepts_earns_what_the_page_says() -> None:
    (code,) = re.findall(r"```python\n(.*?)```", CONCEPTS, re.DOTALL)
    scope: dict[str, Any] = {}
    exec(code, scope)
    said = float(re.search(r"# tensor\(\[([\d.]+)\]\)", code)[1])  # type: ignore[index]
    assert scope["reward"].tolist() == pytest.approx([said], abs=5e-5)

    sad = DFEW.id("sad")
    rows = dict(re.findall(r"^\| `(\w+)`.*\| ([\d.]+) \|$", CONCEPTS, re.MULTILINE))
    assert set(rows) == set(VARIANTS) - {"paragraph"}
    for variant, value in rows.items():
        earned = explanation_reward([scope["probs"]], [sad], DFEW.neutral, variant=variant, answers=[sad])
        assert isinstance(earned, torch.Tensor)
        assert earned.tolist() == pytest.approx([float(value)], abs=5.1e-3), variant


def commands_of(page: str) -> list[str]:
    blocks = re.findall(r"^```bash\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    return re.findall(r"^python -m erv_lightning (.+)$", "\n".join(blocks), re.MULTILINE)


@pytest.mark.parametrize("command", sorted({*commands_of(QUICKSTART), *commands_of(FAQ)}))
def test_a_command_of_the_quick_start_and_the_faq_is_understood(checkout: Checkout, command: str) -> None:
    words = shlex.split(command)
    assert all((ROOT / word).is_file() for word in words if word.startswith("configs/"))
    if words[0] in {"fit", "test"}:
        outcome = checkout.run(*words, "--print_config")
        assert (outcome.status, outcome.err) == (0, "")
    else:
        with pytest.raises(SystemExit) as stop:
            checkout.run(*words, "--help")
        assert stop.value.code == 0
