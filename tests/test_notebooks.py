"""The notebooks run from top to bottom, say only what functions elsewhere compute, and lie in git without outputs."""

from __future__ import annotations

import ast
import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import jupytext
import nbformat
import pytest

from erv_lightning.analysis import bootstrap, class_gains, load_arms

FOLDER = Path(__file__).parents[1] / "notebooks"
NAMES = ["01_quickstart", "02_metric_curves", "03_faithfulness", "04_reward_ablation"]
LONGEST = 16  # lines of a cell
MOST = 4_000_000  # bytes of the runs that come with them
PLOTLY = "application/vnd.plotly.v1+json"


def script(name: str) -> ModuleType:
    """One of the scripts beside the notebooks."""
    spec = importlib.util.spec_from_file_location(f"notebooks_{name}", FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def code_of(notebook: Any) -> list[str]:
    return [cell.source for cell in notebook.cells if cell.cell_type == "code"]


@pytest.fixture(scope="module")
def executed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """All notebooks, run in fresh kernels by the script that the documentation uses."""
    folder = tmp_path_factory.mktemp("executed")
    before = {path: path.read_bytes() for path in FOLDER.glob("*.ipynb")}
    subprocess.run([sys.executable, str(FOLDER / "execute.py"), "--to", str(folder)], check=True)
    assert {path: path.read_bytes() for path in FOLDER.glob("*.ipynb")} == before
    return {path.stem: nbformat.read(path, as_version=4) for path in folder.glob("*.ipynb")}


def outputs(notebook: Any) -> list[Any]:
    return [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]


def printed(notebook: Any) -> str:
    return "".join(output.text for output in outputs(notebook) if output.output_type == "stream")


# -- as they run --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_every_cell_runs_and_complains_of_nothing(executed, name):
    cells = [cell for cell in executed[name].cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in cells)
    complaints = [one for one in outputs(executed[name]) if one.output_type == "error" or one.get("name") == "stderr"]
    assert complaints == []


@pytest.mark.parametrize(("name", "charts"), list(zip(NAMES, [1, 3, 3, 4], strict=True)))
def test_charts_come_as_numbers_without_javascript(executed, name, charts):
    drawn = [output.data for output in outputs(executed[name]) if PLOTLY in output.get("data", {})]
    assert len(drawn) == charts
    assert all(data[PLOTLY]["data"] and "text/html" not in data for data in drawn)
    assert "<script" not in nbformat.writes(executed[name])


def test_an_executed_notebook_is_small_enough_for_a_page(executed):
    assert {name: len(nbformat.writes(notebook)) < 600_000 for name, notebook in executed.items()} == dict.fromkeys(
        NAMES, True
    )


def test_the_quick_start_shows_a_clip_and_its_frames(executed):
    shown = [output.data for output in outputs(executed["01_quickstart"]) if "data" in output]
    assert any("<video" in data.get("text/html", "") and "data:video/mp4" in data["text/html"] for data in shown)
    assert any("image/png" in data for data in shown)


def test_every_source_of_curves_gives_the_same_curves(executed):
    shown = [one.data for one in outputs(executed["02_metric_curves"]) if "data" in one]
    said = [data["text/plain"] for data in shown if "text/plain" in data]
    assert said.count("True") == 2  # JSON lines, and the offline W&B run
    assert "nothing is read from W&B" in printed(executed["02_metric_curves"])


# -- what they claim of the runs that come with them --------------------------------------------------------------


def test_what_the_text_says_of_the_arms_is_so():
    runs = [FOLDER / "demo_runs" / "sft" / f"seed{seed}" for seed in range(3)]
    for arm in ("accuracy", "explanation"):
        runs += [FOLDER / "demo_runs" / "grpo" / f"{arm}-seed{seed}" for seed in range(3)]
    sft, accuracy, explanation = load_arms(runs)
    values = {
        name: {key: one.value for key, one in of.estimates().items()}
        for name, of in bootstrap([sft, accuracy, explanation], "grammar", draws=10).items()
    }
    assert values["sft"]["fcr"] == pytest.approx(0.42, abs=0.03)
    assert values["grpo/accuracy"]["fcr"] == pytest.approx(0.40, abs=0.03)
    assert values["grpo/explanation"]["fcr"] == pytest.approx(0.82, abs=0.03)
    assert values["grpo/accuracy"]["epc"] < values["sft"]["epc"]
    gains = class_gains(explanation, accuracy, "grammar", draws=500).set_index("label")
    assert gains.loc["sad", "low"] < 0
    assert (gains.drop("sad")["low"] > 0).all()


# -- as they lie in git -------------------------------------------------------------------------------------------


def test_there_are_four_and_the_readme_names_each():
    assert script("execute").names() == NAMES
    readme = (FOLDER / "README.md").read_text()
    assert all(f"[{name}]({name}.ipynb)" in readme for name in NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_outputs_are_stripped(name):
    notebook = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
    assert outputs(notebook) == []
    assert {cell.get("execution_count") for cell in notebook.cells} == {None}
    assert all(cell.metadata == {} for cell in notebook.cells)
    assert set(notebook.metadata) == {"jupytext", "kernelspec"}


def test_stripping_an_executed_notebook_gives_the_one_in_git(executed, tmp_path):
    path = tmp_path / "run.ipynb"
    nbformat.write(executed["01_quickstart"], path)
    script("execute").strip(path)
    assert path.read_bytes() == (FOLDER / "01_quickstart.ipynb").read_bytes()


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_and_its_script_say_the_same(name):
    pair = [jupytext.read(FOLDER / f"{name}{ending}") for ending in (".ipynb", ".py")]
    first, second = ([(cell.cell_type, cell.source) for cell in one.cells] for one in pair)
    assert first == second, f"run jupytext --sync notebooks/{name}.py"


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_only_calls_and_explains(name):
    notebook = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
    defined = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)
    # of all lambdas only the key by which runs are sorted
    nodes = [node for source in code_of(notebook) for node in ast.walk(ast.parse(source)) if isinstance(node, defined)]
    assert [node for node in nodes if not isinstance(node, ast.Lambda)] == []
    assert all("sorted(" in source for source in code_of(notebook) if "lambda" in source)
    imports = (ast.Import, ast.ImportFrom)
    for source in code_of(notebook):
        body = [node for node in ast.parse(source).body if not isinstance(node, imports)]
        if body:
            lines = len(source.splitlines()) - body[0].lineno + 1
            assert lines <= LONGEST, source


@pytest.mark.parametrize("name", NAMES)
def test_every_code_cell_follows_an_explanation(name):
    kinds = [cell.cell_type for cell in nbformat.read(FOLDER / f"{name}.ipynb", as_version=4).cells]
    assert kinds[0] == "markdown"
    assert "code, code, code" not in ", ".join(kinds)


# -- the runs that come with them ---------------------------------------------------------------------------------


def test_the_runs_are_small_and_name_no_machine():
    files = [path for path in (FOLDER / "demo_runs").rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < MOST
    for path in files:
        if path.suffix != ".safetensors":
            text = path.read_text(encoding="utf-8")
            assert not any(word in text for word in ("/tmp/", "/home/", "/root/", "/work/")), path


def test_thinning_keeps_predictions_whole_and_every_so_many_steps_of_the_rollouts(tmp_path):
    thin = script("thin_runs")
    run = tmp_path / "run"
    run.mkdir()
    for name in thin.WHOLE:
        (run / name).write_text(f"{name}\n")
    (run / "metrics.csv").write_text("step,a\n0,0.123456789\n1,\n")
    (run / "rollouts.jsonl").write_text("".join(f'{{"step": {step}}}\n' for step in range(5)))
    thin.thin(run, tmp_path / "all", 2)
    thin.thin(run, tmp_path / "none", None)
    assert (tmp_path / "all" / "rollouts.jsonl").read_text() == '{"step": 0}\n{"step": 2}\n{"step": 4}\n'
    assert not (tmp_path / "none" / "rollouts.jsonl").exists()
    assert (tmp_path / "none" / "metrics.csv").read_text() == "step,a\n0,0.123457\n1,\n"
    assert (tmp_path / "none" / "predictions.jsonl").read_text() == "predictions.jsonl\n"
