"""The pages for people who build on this: their examples run, and their tables say what the code does."""

from __future__ import annotations

import inspect
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from omegaconf import OmegaConf

from erv_lightning.data.datamodule import ClipDataModule
from erv_lightning.data.sample import ClipSource
from erv_lightning.labels import DFEW
from erv_lightning.modules import GRPOModule, SFTModule, VerifierModule
from erv_lightning.rl.reward_terms import Completions, RewardSum
from erv_lightning.text import parse_response

ROOT = Path(__file__).parents[1]
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
MODULES: dict[str, type] = {"sft": SFTModule, "verifier": VerifierModule, "grpo": GRPOModule}


def blocks(heading: str, language: str) -> list[str]:
    """The code blocks of a language under a heading of CONTRIBUTING.md."""
    section = CONTRIBUTING.split(f"## {heading}\n")[1].split("\n## ")[0]
    return re.findall(rf"```{language}\n(.*?)```", section, re.DOTALL)


def completions(*texts: str) -> Completions:
    responses = [parse_response(text) for text in texts]
    return Completions(responses, [DFEW.id(r.answer) for r in responses], [0] * len(texts), DFEW)


# -- CONTRIBUTING.md ---------------------------------------------------------------------------------------------


def test_the_example_reward_can_be_named_in_a_config_and_added_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (code,), (overlay,) = blocks("How to add a reward", "python"), blocks("How to add a reward", "yaml")
    (tmp_path / "rewards").mkdir()
    (tmp_path / "rewards" / "senses.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    settings = yaml.safe_load(overlay)["model"]["init_args"]
    weights = settings["rewards"] | {"explanation": 0.0}  # no verifier here

    earned = RewardSum(weights, settings["reward_functions"])(
        completions(
            "<think>In the video, a smile. In the audio, a bright voice.</think>\n<answer>happy</answer>",
            "<think>The face is still.</think>\n<answer>sad</answer>",
            "no form at all",
        )
    )

    assert earned.parts["senses"].dtype == torch.float32
    assert earned.parts["senses"].tolist() == [1.0, 0.5, 0.0]
    assert earned.total.tolist() == [2.5, 1.25, 0.0]  # format + accuracy + 0.5 · senses


def test_the_example_data_set_reads_a_folder(tmp_path: Path) -> None:
    (code,), (overlay,) = blocks("How to add a data set", "python"), blocks("How to add a data set", "yaml")
    for name in ("DC/sa07.avi", "DC/sa08.avi", "JE/su09.avi", "JK/su15.avi", "KL/h02.avi"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    scope: dict[str, Any] = {}
    exec(code, scope)
    source: ClipSource = scope["Savee"](str(tmp_path), holdout=0.5)
    found = {split: [(s.id, s.label) for s in source.samples(split)] for split in ("train", "val", "test")}

    assert found["test"] == [("KL_h02", "happy")]
    assert [label for _, label in found["train"]] == [label for _, label in found["val"]] == ["sad", "surprise"]
    assert {id_ for id_, _ in found["train"] + found["val"]} == {"DC_sa07", "DC_sa08", "JE_su09", "JK_su15"}
    assert all(DFEW.id(label) >= 0 for label in scope["LABELS"].values())
    assert yaml.safe_load(overlay)["data"]["source"]["class_path"] == "erv_lightning.data.readers.Savee"
    (tmp_path / "DC" / "x01.avi").touch()
    with pytest.raises(ValueError, match=r"DC/x01\.avi: no 'x'"):
        source.samples("train")


def test_every_dependency_has_its_reason_and_no_other_is_listed() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    declared = [
        *project["dependencies"],
        *(spec for extra in project["optional-dependencies"].values() for spec in extra),
    ]
    declared = [spec for spec in declared if not spec.startswith("erv-lightning[")]  # an extra in another
    section = CONTRIBUTING.split("## Dependencies\n")[1]
    cells = [line.split("|")[1].strip() for line in section.splitlines() if line.startswith("| ")]
    listed = [
        name
        for cell in cells
        for name in cell.split(", ")
        if name not in {"runtime", "optional", "development", "benchmarks"}
    ]

    assert sorted(listed) == sorted(re.split(r"[<>=]", spec)[0] for spec in declared)


# -- docs/paper_index.md -----------------------------------------------------------------------------------------


def index_rows() -> list[tuple[str, str, str, str]]:
    """Stage, key, default and demo of every row that names a setting as `stage: dotted.key`."""
    rows = []
    for line in (ROOT / "docs" / "paper_index.md").read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 6 and (found := re.match(r"`(sft|verifier|grpo): ([\w.]+)`", cells[2])):
            rows.append((found[1], found[2], cells[3], cells[4]))
    return rows


def default_of(stage: str, key: str) -> Any:
    """What the class does where the config says nothing."""
    names = key.removeprefix("model.init_args.").removeprefix("data.").split(".")
    taker = ClipDataModule if key.startswith("data.") else MODULES[stage]
    value = inspect.signature(taker).parameters[names[0]].default
    for name in names[1:]:
        value = getattr(value, name)
    return value


def value_of(cell: str) -> Any:
    return yaml.safe_load(cell.strip("`")) if cell else None  # an empty cell: not set


def as_number(value: Any) -> Any:
    """YAML 1.1 reads 1e-6 as text."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return value


@pytest.mark.parametrize(("stage", "key", "default", "demo"), index_rows())
def test_the_paper_index_says_what_the_code_does(stage: str, key: str, default: str, demo: str) -> None:
    config = OmegaConf.load(ROOT / "configs" / f"{stage}.yaml")

    assert as_number(OmegaConf.select(config, key)) == as_number(value_of(demo))
    if not key.startswith("trainer."):
        assert as_number(default_of(stage, key)) == as_number(value_of(default))


def test_the_paper_index_names_code_that_exists() -> None:
    text = (ROOT / "docs" / "paper_index.md").read_text(encoding="utf-8")
    dotted = set(re.findall(r"`((?:labels|text|metrics|modules|data|rl)(?:\.\w+)+)", text))
    for name in dotted - {key for _, key, _, _ in index_rows()}:
        module, _, attribute = name.rpartition(".")
        if name.startswith("data.") and module == "data":
            assert attribute in inspect.signature(ClipDataModule).parameters, name
            continue
        found = __import__(f"erv_lightning.{module}", fromlist=[attribute])
        assert hasattr(found, attribute), name
    assert dotted


def test_the_overlays_that_the_docs_name_exist() -> None:
    for page in ("CONTRIBUTING.md", "docs/paper_index.md", "docs/data.md", "docs/architecture.md"):
        text = (ROOT / page).read_text(encoding="utf-8")
        named = set(re.findall(r"\b(configs/[\w/]+\.yaml)", text)) - {"configs/data/savee.yaml"}  # the example's
        named |= {f"configs/{name}" for name in re.findall(r"overlay `([\w/]+\.yaml)`", text)}
        assert not [name for name in sorted(named) if not (ROOT / name).is_file()], page
