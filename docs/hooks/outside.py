"""Pages of the site that stand outside docs/: contributing, the changelog, measurements, configs, sweeps.

Links between files are written as they work in the repository, `../CONTRIBUTING.md` or `../configs/reward/gated.yaml`.
This hook of MkDocs brings what they lead to into the site and turns the links. How a notebook becomes a page is not its
business.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

# groups of configs, in the order of the overview, with what a reader chooses there
GROUPS = {
    ".": ("stages", "The stages", "Each run begins with one of these; overlays follow it."),
    "recipes": ("recipes", "Recipes", "Published set-ups, each a whole run in one line."),
    "model": ("model", "Models", "The policy, instead of the small built-in one."),
    "data": ("data", "Data", "The clips, instead of the built-in ones."),
    "reward": ("reward", "Rewards", "What GRPO pays for."),
    "objective": ("objective", "Objectives", "The loss of GRPO, instead of the paper's."),
    "verifier": ("verifier", "Verifiers", "How the verifier is made and trained."),
    "judge": ("judge", "Judges", "Who reads the explanations when metrics are counted."),
    "trainer": ("trainer", "Trainers", "Where a run computes: CPU, GPU, several processes, a cluster."),
    "logger": ("logger", "Loggers", "Where curves go beside the CSV file."),
    "debug": ("debug", "Debugging", "Short runs that show whether things work."),
}
PAGES = {"CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
LINK = re.compile(r"(\]\()([^)\s#]+)(#[^)\s]*)?(\))")
COMMAND = re.compile(r"(?:python -m erv_lightning|wandb sweep|sbatch) .*")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages from outside docs/."""
    root = _root(config)
    for name, uri in _addresses(root).items():
        if name.endswith(".md"):
            files.append(File.generated(config, uri, abs_src_path=str(root / name)))
    for uri, text in _config_pages(root):
        files.append(File.generated(config, uri, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turns the links of a page from places in the repository to places on the site."""
    if page.parent is None:
        page.meta.setdefault("hide", []).append("navigation")  # a tab of its own: there is nothing beside it
    root = _root(config)
    addresses = _addresses(root) | {"README.md": "index.md"}
    here = page.file.src_uri
    names = {uri: name for name, uri in addresses.items() if uri != "index.md"}
    folder = posixpath.dirname(names.get(here, f"docs/{here}"))

    def turned(found: re.Match[str]) -> str:
        before, target, anchor, after = found[1], found[2], found[3] or "", found[4]
        if re.match(r"\w+:|/", target):
            return found[0]
        name = posixpath.normpath(posixpath.join(folder, target))
        uri = addresses.get(name) or (name.removeprefix("docs/") if name.startswith("docs/") else None)
        if uri is None:
            return found[0]  # MkDocs names it as broken
        uri, _, inside = uri.partition("#")
        anchor = anchor or (f"#{inside}" if inside else "")
        return f"{before}{posixpath.relpath(uri, posixpath.dirname(here) or '.')}{anchor}{after}"

    parts = re.split(r"(^```.*?^```)", markdown, flags=re.DOTALL | re.MULTILINE)
    return "".join(part if part.startswith("```") else LINK.sub(turned, part) for part in parts)


def _root(config: MkDocsConfig) -> Path:
    return Path(config.docs_dir).parent


def _addresses(root: Path) -> dict[str, str]:
    """Where on the site a file of the repository stands, for all that stand outside docs/."""
    found = {name: uri for name, uri in PAGES.items() if (root / name).exists()}
    for path in sorted((root / "benchmarks" / "results").glob("*.md")):
        found[f"benchmarks/results/{path.name}"] = f"benchmarks/{path.name}"
    for path in _shown(root):
        configs = root / "configs"
        page = GROUPS[path.parent.relative_to(configs).as_posix()][0] if path.is_relative_to(configs) else "sweeps"
        found[path.relative_to(root).as_posix()] = f"configs/{page}.md#{_anchor(path)}"
    for path in sorted((root / "notebooks").glob("*.ipynb")):  # notebooks.py makes the pages
        found |= {f"notebooks/{path.stem}{ending}": f"notebooks/{path.stem}.md" for ending in (".py", ".ipynb")}
    for folder, (page, _, _) in GROUPS.items():
        found[posixpath.normpath(f"configs/{folder}")] = f"configs/{page}.md"
    return found | {"configs": "configs/index.md", "sweeps": "configs/sweeps.md", "notebooks": "notebooks/index.md"}


def _shown(root: Path) -> list[Path]:
    """Every file that a page of the section Configs shows."""
    folders = [root / "configs" / folder for folder in GROUPS] + [root / "sweeps"]
    return [path for folder in folders for path in sorted(folder.glob("*")) if path.suffix in {".yaml", ".sh"}]


def _anchor(path: Path) -> str:
    return re.sub(r"[^\w-]", "-", path.name)


def _config_pages(root: Path) -> Iterator[tuple[str, str]]:
    """Address and text of the overview, of a page for each group of configs, and of one for the sweeps."""
    rows = ["# Configs", "", "A run is a stage, then overlays, then single settings; later ones win.", ""]
    rows += ["| group | what it chooses | files |", "|---|---|---|"]
    for folder, (page, title, about) in GROUPS.items():
        paths = [path for path in _shown(root) if path.parent == root / "configs" / folder]
        names = ", ".join(f"[{path.name.removesuffix('.yaml')}]({page}.md#{_anchor(path)})" for path in paths)
        rows.append(f"| [{title}]({page}.md) | {about} | {names} |")
        yield f"configs/{page}.md", _page(title, about, paths, root)
    paths = [path for path in _shown(root) if path.parent == root / "sweeps"]
    about = "Searches over settings. [Sweeps](../sweeps.md) tells how they are started."
    yield "configs/sweeps.md", _page("Sweep files", about, paths, root)
    yield "configs/index.md", "\n".join([*rows, "", "And the [sweep files](sweeps.md).", ""])


def _page(title: str, about: str, paths: list[Path], root: Path) -> str:
    shown = "\n\n".join(_file(path, path.relative_to(root).as_posix()) for path in paths)
    return f"# {title}\n\n{about}\n\n{shown}\n"


def _file(path: Path, name: str) -> str:
    """A file with what its first comment says, the commands apart, and its content."""
    text = path.read_text(encoding="utf-8")
    heading = f"## {path.name} {{#{_anchor(path)}}}"
    if path.suffix == ".sh":
        return f'{heading}\n\n```bash title="{name}"\n{text}```'
    comment, _, _ = text.partition("\n\n") if text.startswith("# ") else ("", "", "")
    lines = [line.removeprefix("#").strip() for line in comment.splitlines()]
    lines = lines[: next((i for i, line in enumerate(comment.splitlines()) if not line.startswith("#")), len(lines))]
    body = "\n".join(text.splitlines()[len(lines) :]).strip("\n")
    commands = [found[0] for line in lines if (found := COMMAND.search(line))]
    words = " ".join(COMMAND.sub("", line).strip() for line in lines).replace("<", "&lt;")
    words = re.sub(r":\s*(?=[A-Z]|$)", ". ", words).strip().rstrip(".") + "."
    shell = "\n".join(commands)
    return f'{heading}\n\n{words}\n\n```bash\n{shell}\n```\n\n```yaml title="{name}"\n{body}\n```'
