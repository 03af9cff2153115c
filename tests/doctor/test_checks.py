"""Each thing that would break a run has a line with a way out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from erv_lightning.data.clips import ClipRules
from erv_lightning.data.media import MediaSettings
from erv_lightning.doctor import checks
from erv_lightning.doctor.memory import Plan, Shape, estimate
from erv_lightning.doctor.sizes import sizes_of
from erv_lightning.doctor.tokens import from_settings
from erv_lightning.labels import DFEW, GOEMOTIONS, MAFW

REWARDS = {"format": 1.0, "explanation": 1.0}


def verifier(folder: Path, names: tuple[str, ...]) -> str:
    labels = {str(index): name for index, name in enumerate(names)}
    (folder / "config.json").write_text(json.dumps({"id2label": labels}))
    return str(folder)


def test_a_verifier_must_know_the_labels_of_the_data(tmp_path: Path) -> None:
    known = verifier(tmp_path, DFEW.names)
    assert checks.check_verifier(known, REWARDS, [DFEW]) == []
    (found,) = checks.check_verifier(known, REWARDS, [DFEW, MAFW])
    assert found.problem
    assert "contempt" in found.line
    assert "configs/reward/goemotions.yaml" in found.line
    assert checks.check_verifier(verifier(tmp_path, GOEMOTIONS), REWARDS, [DFEW, MAFW]) == []


def test_a_verifier_that_is_not_there_is_trained_first_or_a_problem(tmp_path: Path) -> None:
    (first,) = checks.check_verifier("runs/verifier/never/export", REWARDS, [DFEW])
    assert not first.problem
    (absent,) = checks.check_verifier(str(tmp_path / "none"), REWARDS, [DFEW])
    assert absent.problem
    assert checks.check_verifier(None, REWARDS, [DFEW])[0].problem
    assert checks.check_verifier(None, {"accuracy": 1.0, "explanation": 0.0}, [DFEW]) == []


def test_the_verifier_is_not_the_judge() -> None:
    assert checks.check_judge("a/b", "a/b")[0].problem
    assert checks.check_judge("a/b", "a/c") == checks.check_judge(None, "a/c") == []


def test_a_policy_that_is_not_there_is_trained_first_or_a_problem(tmp_path: Path) -> None:
    assert not checks.check_policy("runs/sft/never/export")[0].problem
    assert checks.check_policy(str(tmp_path / "none"))[0].problem
    assert checks.check_policy("tiny") == checks.check_policy("Qwen/Qwen2.5-Omni-7B") == []


@pytest.mark.parametrize(
    ("name", "version", "told"),
    [("lightning", "2.6.3", "compromised"), ("transformers", "5.17.0", "5.21"), ("peft", "0.20.0", "0.21")],
)
def test_versions_that_are_known_not_to_work(name: str, version: str, told: str) -> None:
    found = checks.check_versions({"torch": "2.11.0", name: version})
    assert [told in one.line and one.problem for one in found] == [True]


def test_the_installed_versions_are_fine() -> None:
    assert not [one for one in checks.check_versions(checks.versions()) if one.problem]


def test_what_does_not_fit_gets_a_setting_under_which_it_does() -> None:
    sizes, shape = sizes_of("tiny", None, ("vision", "audio")), Shape(8, 8, 100, 80, 8)
    plan = Plan(reference=True)
    room = estimate(sizes, shape, plan).peak / 3
    found = checks.ways_out(sizes, shape, plan, room)
    assert found[0][0] == "--micro_batch_prompts 1"
    assert all(memory.peak <= room for _, memory in found)
    assert checks.ways_out(sizes, shape, plan, 1.0) == []
    assert "LoRA" in checks.advice(lora=False, devices=1)


def test_tokens_from_the_settings_by_hand() -> None:
    # 8 frames of 224: 4 pairs of 16 × 16 patches, four to a token; 5 s of sound: 500 spectrum frames, 125 tokens
    found = from_settings(ClipRules(MediaSettings(num_frames=8, frame_size=(224, 224))))
    assert (found.patches, found.frames, found.media, found.prompt) == (1024, 500, 256 + 125, 256 + 125 + 60)
