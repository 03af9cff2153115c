"""`doctor` over shipped configs and a small set of clips."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import pytest
from cli_fixtures import FEW, ROOT, Checkout

from erv_lightning.commands.doctor import main

pytest_plugins = ("cli_fixtures",)


def doctor(folder: Path, *words: str) -> tuple[int, str]:
    out = io.StringIO()
    with contextlib.chdir(folder), contextlib.redirect_stdout(out), contextlib.redirect_stderr(io.StringIO()):
        status = main(list(words))
    return status, out.getvalue()


def report(folder: Path, *words: str) -> tuple[int, dict[str, Any]]:
    status, out = doctor(folder, "--json", *words)
    return status, json.loads(out)


def test_grpo_of_the_small_policy_in_full(checkout: Checkout) -> None:
    status, found = report(checkout.folder, "-c", "configs/grpo.yaml", *FEW, "--runs", "elsewhere")
    assert (status, found["problems"]) == (0, [])
    assert found["tokens"]["measured"] == 4
    assert (found["tokens"]["prompt"], found["tokens"]["media"]) == (54, 33)
    assert (found["batches"]["per_rank"], found["batches"]["completions_per_rank"]) == (4, 32)
    assert set(found["memory"]["phases"]) == {"generate", "reference", "update", "validate"}
    assert found["memory"]["parts"]["kept reference"] > 0
    assert found["seconds"]["step"] > 0
    assert [line for line in found["warnings"] if "elsewhere/sft/default/export is not there yet" in line]


def test_the_text_ends_with_what_matters(checkout: Checkout) -> None:
    status, out = doctor(checkout.folder, "-c", "configs/sft.yaml", *FEW)
    assert status == 0
    for part in ("Batches (sft", "Tokens (the longest of 4 clips)", "Memory of a device", "estimated", "assumed: 35%"):
        assert part in out
    assert out.rstrip().endswith("nothing here would keep the run from working")
    status, out = doctor(checkout.folder, "-c", "configs/verifier.yaml", *FEW)
    assert status == 0
    assert "Memory" not in out


def test_what_does_not_fit_ends_with_status_1_and_a_way_out(checkout: Checkout) -> None:
    words = ("-c", "configs/grpo.yaml", *FEW)
    _, free = report(checkout.folder, *words)
    room = str(0.6 * free["memory"]["peak"] / 1e9)
    status, found = report(checkout.folder, *words, "--gpu-memory", room)
    assert status == 1
    (line,) = found["problems"]
    assert "--micro_batch_prompts 1" in line
    _, smaller = report(checkout.folder, *words, "--gpu-memory", room, "--micro_batch_prompts", "1")
    assert smaller["problems"] == []


@pytest.mark.parametrize(("model", "billions"), [("3b", 4.7), ("7b", 9.0)])
def test_the_shipped_overlays_without_their_weights(checkout: Checkout, model: str, billions: float) -> None:
    overlay = f"configs/model/qwen2_5_omni_{model}.yaml"
    words = ("-c", "configs/grpo.yaml", "-c", overlay, *FEW, "--prompts_per_step", "8", "--gpus", "2")
    status, found = report(checkout.folder, *words, "--device", "H100", "--runs", "elsewhere")
    assert (status, found["problems"]) == (0, [])
    assert round(found["sizes"]["parameters"] / 1e9, 1) == billions
    assert found["sizes"]["rank"] == 16
    assert found["memory"]["parts"]["kept reference"] == 0  # the adapters off are the reference
    assert found["tokens"]["measured"] == 0
    assert set(found["with_other_strategies"]) == {"single", "ddp", "fsdp"}


def test_each_of_several_problems_has_its_line(checkout: Checkout, tmp_path: Path) -> None:
    words = ("-c", "configs/grpo.yaml", *FEW, "--prompts_per_step", "4", "--gpus", "3")
    status, found = report(checkout.folder, *words, f"--model.init_args.verifier={tmp_path}/none")
    assert status == 1
    assert any("3 processes cannot share evenly" in line for line in found["problems"])
    assert any("no verifier in" in line for line in found["problems"])


def test_data_that_is_not_there_is_a_problem(tmp_path: Path) -> None:
    words = ("-c", "configs/sft.yaml", "-c", "configs/data/jsonl.yaml", f"--data.source.init_args.root={tmp_path}")
    status, found = report(ROOT, *words)
    assert status == 1
    assert any(str(tmp_path) in line for line in found["problems"])


def test_an_unknown_device_is_refused(checkout: Checkout) -> None:
    with pytest.raises(ValueError, match="H100"):
        doctor(checkout.folder, "-c", "configs/sft.yaml", *FEW, "--device", "abacus")
