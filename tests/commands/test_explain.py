"""`explain`: verdicts that agree with the reward, coloured or as JSON, and what it refuses."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
import torch
from rich.console import Console

from erv_lightning.__main__ import main
from erv_lightning.explaining import explain
from erv_lightning.labels import DFEW
from erv_lightning.models.verifier import EmotionVerifier
from erv_lightning.report.explanation import rendered
from erv_lightning.rl.reward_terms import ExplanationRule
from erv_lightning.rl.rewards import explanation_reward
from erv_lightning.text import split_sentences

TEXT = 'The corners of the mouth rise. "Well! Yes." The voice is flat.'


@pytest.fixture(scope="module")
def verifier() -> EmotionVerifier:
    return EmotionVerifier.tiny([TEXT], DFEW.names, seed=3).eval()


@pytest.fixture(scope="module")
def folder(verifier: EmotionVerifier, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("verifier")
    verifier.save(path)
    return str(path)


def test_each_sentence_has_its_labels_by_the_papers_rule(verifier: EmotionVerifier) -> None:
    found = explain(TEXT, verifier, DFEW)
    assert [one.text for one in found.sentences] == split_sentences(TEXT)
    probs = verifier.probs(split_sentences(TEXT))
    for one, row in zip(found.sentences, probs, strict=True):
        ranked = sorted(range(7), key=lambda label: -float(row[label]))
        assert list(one.probs) == [DFEW.names[label] for label in ranked]
        above = [DFEW.names[label] for label in ranked if row[label] > 0.1][:2]
        assert list(one.labels) == (above or [DFEW.names[ranked[0]]])
    assert found.label == DFEW.names[int(probs.mean(0).argmax())]
    one_label = explain(TEXT, verifier, DFEW, rule=ExplanationRule(threshold=0.9, max_labels=1))
    assert all(len(one.labels) == 1 for one in one_label.sentences)


def test_calibrated_thresholds_are_the_verifiers_own(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    own = EmotionVerifier.tiny([TEXT], DFEW.names, seed=3).eval()
    own.save(tmp_path / "raw")
    own.calibrate(0.5, {name: 0.999 if name != "sad" else 0.0 for name in DFEW.names})
    own.save(tmp_path / "calibrated")
    for sentence in explain(TEXT, own, DFEW, rule=ExplanationRule(calibrated=True)).sentences:
        assert sentence.labels == ("sad",)
    assert main(["explain", TEXT, "--verifier", str(tmp_path / "calibrated"), "--calibrated", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)["sentences"]
    expected = own.probs(split_sentences(TEXT), calibrated=True)
    assert [one["probs"]["happy"] for one in shown] == pytest.approx(expected[:, DFEW.id("happy")].tolist())
    assert main(["explain", TEXT, "--verifier", str(tmp_path / "raw"), "--calibrated"]) == 2
    assert "no erv_calibration" in capsys.readouterr().err


@pytest.mark.parametrize("label", ["happy", "neutral", "Angry."])
def test_the_rewards_are_those_of_training(verifier: EmotionVerifier, label: str) -> None:
    found = explain(TEXT, verifier, DFEW, label=label)
    expected = explanation_reward([verifier.probs(split_sentences(TEXT))], [DFEW.id(label)], DFEW.neutral)
    assert found.rewards["explanation"] == pytest.approx(float(expected))
    assert {"paragraph", "top1", "half", "all_sentences", "gated", "self_consistent"} < set(found.rewards)


def test_an_explanation_without_a_sentence_conveys_nothing(verifier: EmotionVerifier) -> None:
    found = explain("  ", verifier, DFEW, label="sad")
    assert (found.sentences, found.label, found.probs) == ((), "", {})
    assert set(found.rewards.values()) == {0.0}


def test_a_terminal_shows_sentences_in_colour_with_their_labels(verifier: EmotionVerifier) -> None:
    out = io.StringIO()
    found = explain(TEXT, verifier, DFEW, label="happy")
    Console(file=out, force_terminal=True, color_system="truecolor", width=120).print(rendered(found, DFEW))
    shown = out.getvalue()
    assert "\x1b[" in shown
    assert "█" in shown
    for one in found.sentences:
        assert " + ".join(one.labels) in shown
    assert "as a whole" in shown
    assert "rewards: explanation" in shown


def test_markup_in_an_explanation_is_text(verifier: EmotionVerifier) -> None:
    out = io.StringIO()
    Console(file=out, width=200).print(rendered(explain("[bold]He smiles[/bold].", verifier, DFEW), DFEW))
    assert "[bold]He smiles[/bold]." in out.getvalue()


def test_the_command_prints_json_a_row_for_scripts(
    folder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], verifier: EmotionVerifier
) -> None:
    rows = tmp_path / "predictions.jsonl"
    rows.write_text(json.dumps({"id": "a", "explanation": TEXT}) + "\n\n" + json.dumps({"explanation": ""}) + "\n")
    assert main(["explain", "--file", str(rows), "--verifier", folder, "--json"]) == 0
    first, second = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert first["name"] == "a"
    assert [one["text"] for one in first["sentences"]] == split_sentences(TEXT)
    torch.testing.assert_close(
        torch.tensor([first["probs"][name] for name in DFEW.names]), verifier.probs(split_sentences(TEXT)).mean(0)
    )
    assert second["name"] == f"{rows}:3"
    assert second["sentences"] == []
    assert main(["explain", TEXT, "--verifier", folder]) == 0
    assert "as a whole" in capsys.readouterr().out


def test_bad_input_is_one_clear_line(
    folder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.jsonl").write_text('{"explanation": "x"}\n{"text": 1}\n')
    cases = {
        "give one of the two": [],
        "correct --file": ["--file", "gone.txt"],
        "rows.jsonl:2: no JSON object with `explanation`": ["--file", "rows.jsonl", "--verifier", folder],
        "give --verifier FOLDER": [TEXT],
        "no classifier in": [TEXT, "--verifier", str(tmp_path / "none")],
        "label 'joy and rage' is not in": [TEXT, "--verifier", folder, "--label", "joy and rage"],
        "no label space 'klingon'": [TEXT, "--verifier", folder, "--label-space", "klingon"],
    }
    for message, words in cases.items():
        assert main(["explain", *words]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.splitlines()[-1].startswith("error: ")
