"""`evaluate` on files made here: numbers by hand, the release's formats, judges, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.image
import pytest
from cli_fixtures import read_jsonl

from erv_lightning.__main__ import main
from erv_lightning.data.grammar import PHRASES
from erv_lightning.labels import DFEW, MAFW
from erv_lightning.models.verifier import EmotionVerifier

FAST = ("--draws", "200")
HAPPY = f"Looking at the video, {PHRASES['happy']['video'][0]}. In the audio, {PHRASES['happy']['audio'][0]}."


def write_dfew(root: Path, labels: Mapping[int, int]) -> Path:
    """Annotations as published: clip number → DFEW's number of its label."""
    (root / "label").mkdir(parents=True)
    rows = "".join(f"{clip},{label}\n" for clip, label in labels.items())
    (root / "label" / "single_testset_5.csv").write_text(f"video_name,label\n{rows}")
    return root


def write_mafw(root: Path, labels: Mapping[str, str]) -> Path:
    folder = root / "Train & Test Set" / "single" / "no_caption" / "set_5"
    folder.mkdir(parents=True)
    (folder / "test.txt").write_text("".join(f"{clip}.mp4 {label}\n" for clip, label in labels.items()))
    return root


def write_release(path: Path, answers: Mapping[str, str], thought: str = "He smiles.\nShe does not.") -> Path:
    path.write_text(
        "".join(f"{name}|<think>{thought}</think>\n<answer>{word}</answer>\n" for name, word in answers.items())
    )
    return path


def write_judge(path: Path, verdicts: Mapping[str, str]) -> Path:
    path.write_text(json.dumps([{name: {"reason": "…", "gpt_response": word}} for name, word in verdicts.items()]))
    return path


def write_jsonl(path: Path, rows: Sequence[tuple[str, str, str]], judge: str = "human", **more: Any) -> Path:
    """Rows of (label, answer, verdict), words of DFEW, "" for none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = []
    for number, (label, answer, verdict) in enumerate(rows):
        line = {
            "id": str(number),
            "dataset": "dfew",
            "clip": f"{number}.mp4",
            "question": "?",
            "label": label,
            "label_space": "dfew",
            "response": f"<think>{HAPPY}</think>\n<answer>{answer}</answer>",
            "explanation": HAPPY,
            "answer": answer,
            "answer_id": DFEW.id(answer),
            "label_id": DFEW.id(label),
            "well_formed": True,
            "judges": {judge: DFEW.id(verdict)},
        }
        lines.append(json.dumps(line | more) + "\n")
    path.write_text("".join(lines))
    return path


def evaluate(tmp_path: Path, *words: str | Path) -> dict[str, Any]:
    """Runs the command and returns its JSON."""
    out = tmp_path / "numbers.json"
    assert main(["evaluate", *map(str, words), *FAST, "--out", str(tmp_path / "out"), "--json", str(out)]) == 0
    found: dict[str, Any] = json.loads(out.read_text())
    return found


def refused(capsys: pytest.CaptureFixture[str], *words: str | Path) -> str:
    assert main(["evaluate", *map(str, words)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert error.startswith("error: ")
    return error


# -- numbers ---------------------------------------------------------------------------------------------------------

ROWS = [
    ("happy", "happy", "happy"),
    ("happy", "happy", "sad"),
    ("happy", "sad", "sad"),
    ("sad", "sad", "happy"),
    ("sad", "", "sad"),  # no valid answer, a right explanation
    ("sad", "happy", ""),
    ("angry", "angry", "angry"),
    ("angry", "happy", "angry"),
]


def test_a_jsonl_is_measured_in_every_way(tmp_path, capsys):
    found = evaluate(tmp_path, "--predictions", write_jsonl(tmp_path / "p.jsonl", ROWS))
    assert (found["clips"], found["judge"]) == (8, "human")
    assert found["war"] == pytest.approx(4 / 8)
    assert found["uar"] == pytest.approx((2 / 3 + 1 / 3 + 1 / 2) / 3)
    assert found["f1"] == pytest.approx((2 * 2 / (3 + 4) + 2 * 1 / (3 + 2) + 2 * 1 / (2 + 1)) / 3)
    assert found["eea"] == pytest.approx(4 / 8)
    assert found["epc"] == pytest.approx(3 / 8)
    assert found["fcr"] == pytest.approx(2 / 8)
    assert found["fcr_given_correct"] == pytest.approx(2 / 4)
    assert found["unparsable"] == pytest.approx(1 / 8)
    assert found["malformed"] == 0
    assert {name: one["clips"] for name, one in found["cells"].items()} == {
        "answer_right_explanation_right": 2,
        "answer_right_explanation_wrong": 2,
        "answer_wrong_explanation_right": 2,
        "answer_wrong_explanation_wrong": 2,
    }
    for key in ("war", "uar", "f1", "eea", "epc", "fcr"):
        low, high = found["intervals"][key]
        assert 0 <= low <= found[key] <= high <= 1
    happy = found["classes"]["happy"]
    assert (happy["clips"], happy["recall"], happy["precision"]) == (3, pytest.approx(2 / 3), pytest.approx(2 / 4))
    assert happy["f1"] == pytest.approx(4 / 7)
    assert happy["eea"] == pytest.approx(1 / 3)
    assert set(found["classes"]) == {"happy", "sad", "angry"}
    assert found["datasets"]["dfew"]["fcr"] == found["fcr"]
    confusion = found["confusion"]["dfew"]
    assert confusion["labels"] == list(DFEW.names)
    assert confusion["answers"][DFEW.id("sad")] == [1, 1, 0, 0, 0, 0, 0, 1]  # the last column: none
    assert confusion["explanations"]["human"][DFEW.id("happy")] == [1, 2, 0, 0, 0, 0, 0, 0]
    printed = capsys.readouterr().out
    for word in ("WAR", "FCR|ŷ=y", "happy", "right × wrong", "12.5% without a valid answer"):
        assert word in printed
    page = (tmp_path / "out" / "evaluation.md").read_text()
    assert "confusion_dfew.png" in page
    assert "| answer right, explanation wrong |" in page
    image = matplotlib.image.imread(tmp_path / "out" / "confusion_dfew.png")
    assert image.shape[1] > image.shape[0] > 400


def test_predictions_that_no_judge_has_read_have_the_metrics_of_answers_alone(tmp_path, capsys):
    found = evaluate(tmp_path, "--predictions", write_jsonl(tmp_path / "p.jsonl", ROWS, judges={}))
    assert (found["war"], found["judge"], found["eea"], found["fcr"], found["cells"]) == (0.5, None, None, None, None)
    assert "explanations read by nobody" in " ".join(capsys.readouterr().out.split())


def test_clips_of_several_data_sets_are_measured_together_and_apart(tmp_path):
    path = write_jsonl(tmp_path / "p.jsonl", ROWS)
    other = write_jsonl(tmp_path / "q.jsonl", ROWS[:1], dataset="faces", label_space="mafw", label_id=3, answer_id=3)
    path.write_text(path.read_text() + other.read_text())
    found = evaluate(tmp_path, "--predictions", path)
    assert found["clips"] == 9
    assert found["datasets"]["faces"]["war"] == 1
    assert found["datasets"]["dfew"]["war"] == 0.5
    assert {"dfew/happy", "mafw/happiness"} <= set(found["classes"])
    assert {file.name for file in (tmp_path / "out").glob("*.png")} == {"confusion_dfew.png", "confusion_mafw.png"}
    assert evaluate(tmp_path, "--predictions", path, "--dataset", "faces")["clips"] == 1


# -- the release's files ---------------------------------------------------------------------------------------------

DFEW_LABELS = {1: 1, 2: 1, 3: 2, 4: 7, 5: 3}  # happy, happy, sad, fear, neutral
ANSWERS = {"1": "happy", "2": "sad", "3": "sad", "4": "no idea", "5": "Happy."}
VERDICTS = {"1": "happy", "2": "sad", "3": "happy", "4": "fear", "5": "gibberish"}  # the last counts as neutral


def test_the_releases_files_give_the_releases_numbers(tmp_path):
    found = evaluate(
        tmp_path,
        *("--predictions", write_release(tmp_path / "p.txt", ANSWERS)),
        *("--judge-file", write_judge(tmp_path / "gpt.json", VERDICTS)),
        *("--dataset", "dfew", "--root", write_dfew(tmp_path / "dfew", DFEW_LABELS), "--fold", "5", "--split", "test"),
    )
    assert (found["clips"], found["judge"]) == (5, "gpt")
    assert found["war"] == pytest.approx(2 / 5)
    assert found["uar"] == pytest.approx((1 / 2 + 1 + 0 + 0) / 4)  # fear's only answer is none, and counts
    assert found["eea"] == pytest.approx(2 / 5)  # 1 and 5; 4 reads right, but its answer is no label
    assert found["epc"] == pytest.approx(2 / 5)  # 1 and 2
    assert found["fcr"] == pytest.approx(1 / 5)
    assert found["unparsable"] == pytest.approx(1 / 5)


def mafw(tmp_path: Path, *words: str) -> dict[str, Any]:
    labels = {"00001": "anger", "00002": "anger", "00003": "contempt", "00004": "contempt"}
    answers = {"00001": "anger", "00002": "hm", "00003": "contempt", "00004": "fear"}
    if not (tmp_path / "mafw").exists():
        write_mafw(tmp_path / "mafw", labels)
    predictions = write_release(tmp_path / "p.txt", answers)
    judged = write_judge(tmp_path / "gpt.json", labels)
    return evaluate(
        tmp_path,
        *(
            "--predictions",
            predictions,
            "--judge-file",
            judged,
            "--dataset",
            "mafw",
            "--root",
            tmp_path / "mafw",
            *words,
        ),
    )


def test_release_compatible_alone_brings_the_quirk_of_mafw(tmp_path):
    plain, quirk = mafw(tmp_path), mafw(tmp_path, "--release-compatible")
    assert plain["uar"] == pytest.approx((1 / 2 + 1 / 2) / 2)
    assert quirk["uar"] == pytest.approx((1 / 1 + 1 / 2) / 2)
    for key in ("war", "eea", "epc", "fcr", "f1"):
        assert plain[key] == quirk[key]
    assert plain["eea"] == pytest.approx(3 / 4)  # the explanation beside "hm" earns nothing either way


def test_the_quirk_is_not_dfews(tmp_path):
    words = (
        *("--predictions", write_release(tmp_path / "p.txt", ANSWERS)),
        *("--dataset", "dfew", "--root", write_dfew(tmp_path / "dfew", DFEW_LABELS)),
    )
    assert evaluate(tmp_path, *words)["uar"] == evaluate(tmp_path, *words, "--release-compatible")["uar"]


def test_a_clip_that_the_file_lacks_counts_as_unparsable_and_is_said(tmp_path, capsys):
    few = {name: word for name, word in ANSWERS.items() if name != "1"}
    found = evaluate(
        tmp_path,
        *("--predictions", write_release(tmp_path / "p.txt", few)),
        *("--dataset", "dfew", "--root", write_dfew(tmp_path / "dfew", DFEW_LABELS)),
    )
    assert (found["clips"], found["unparsable"], found["war"]) == (5, 2 / 5, 1 / 5)
    assert "1 of 5 samples have no response" in found["notes"][0]
    assert "1 of 5 samples have no response" in " ".join(capsys.readouterr().out.split())


def test_predictions_are_written_as_the_release_has_them_and_read_back_alike(tmp_path):
    rows = [(label, answer or label, verdict) for label, answer, verdict in ROWS]  # all answers valid
    ours = evaluate(tmp_path, "--predictions", write_jsonl(tmp_path / "p.jsonl", rows))
    numbers = {"happy": 1, "sad": 2, "angry": 4}
    root = write_dfew(tmp_path / "dfew", {i: numbers[label] for i, (label, *_) in enumerate(rows)})
    theirs = evaluate(
        tmp_path / "again",
        *("--predictions", tmp_path / "out" / "release_dfew.txt"),
        *("--judge-file", tmp_path / "out" / "release_dfew_human.json", "--dataset", "dfew", "--root", root),
    )
    for key in ("war", "uar", "f1", "eea", "epc", "fcr", "fcr_given_correct", "unparsable", "malformed"):
        assert ours[key] == theirs[key], key


def test_a_judge_file_may_stand_beside_a_jsonl(tmp_path):
    path = write_jsonl(tmp_path / "p.jsonl", ROWS)
    judged = write_judge(tmp_path / "gpt.json", {str(i): label for i, (label, *_) in enumerate(ROWS)})
    found = evaluate(tmp_path, "--predictions", path, "--judge-file", judged, "--judge", "human")
    assert (found["judge"], found["eea"], set(found["judges"])) == ("gpt", 1.0, {"gpt", "human"})


# -- judges ----------------------------------------------------------------------------------------------------------


def test_two_judges_give_every_metric_twice_and_their_agreement(tmp_path, capsys):
    path = write_jsonl(tmp_path / "p.jsonl", ROWS)
    before = path.read_text()
    found = evaluate(tmp_path, "--predictions", path, "--judge", "human", "--judge", "second=grammar")
    assert found["judges"]["human"]["eea"] == found["eea"] == 0.5
    assert found["judges"]["second"]["eea"] == pytest.approx(3 / 8)  # all explanations read happy
    assert set(found["agreement"]) == {
        "equal: human and second",
        "Cohen's κ: human and second",
        "Krippendorff's α: all",
    }
    assert found["agreement"]["equal: human and second"]["value"] == pytest.approx(2 / 8)  # happy and happy
    assert path.read_text() == before  # a file given with --predictions is the user's
    printed = capsys.readouterr().out
    assert "all, human" in printed
    assert "all, second" in printed


def write_verifier(folder: Path) -> Path:
    EmotionVerifier.tiny([HAPPY], DFEW.names).save(folder)
    return folder


def test_a_verifier_reads_a_runs_explanations_and_its_verdicts_stay_with_the_run(tmp_path):
    run = tmp_path / "runs" / "grpo" / "x"
    path = write_jsonl(run / "predictions.jsonl", ROWS)
    (run / "config.yaml").write_text("stage: grpo\n")
    folder = write_verifier(tmp_path / "verifier")
    assert main(["evaluate", str(run), "--judge", f"verifier:{folder}", *FAST]) == 0
    found = json.loads((run / "evaluation" / "evaluation.json").read_text())
    assert found["judge"] == "verifier"
    rows = read_jsonl(path)
    assert all(set(row["judges"]) == {"human", "verifier"} for row in rows)
    assert len({row["judges"]["verifier"] for row in rows}) == 1  # one text, one verdict
    read = sum(row["judges"]["verifier"] == row["label_id"] for row in rows)
    assert found["eea"] == pytest.approx(read / len(rows))
    assert main(["evaluate", str(run), *FAST]) == 0  # both are there now
    assert set(json.loads((run / "evaluation" / "evaluation.json").read_text())["judges"]) == {"human", "verifier"}


def test_a_judge_may_be_an_overlay_of_the_configs(tmp_path):
    folder = write_verifier(tmp_path / "verifier")
    overlay = tmp_path / "judge.yaml"
    overlay.write_text(
        "model:\n  init_args:\n    judge:\n      class_path: erv_lightning.judges.VerifierJudge\n"
        f"      init_args: {{pretrained: {folder}, name: mine}}\n"
    )
    found = evaluate(tmp_path, "--predictions", write_jsonl(tmp_path / "p.jsonl", ROWS), "--judge", overlay)
    assert found["judge"] == "mine"


# -- what is refused -------------------------------------------------------------------------------------------------


def test_bad_input_ends_in_one_clear_line(tmp_path, capsys):
    jsonl = write_jsonl(tmp_path / "p.jsonl", ROWS)
    text = write_release(tmp_path / "p.txt", ANSWERS)
    root = write_dfew(tmp_path / "dfew", DFEW_LABELS)
    assert "name what to evaluate" in refused(capsys)
    assert "name what to evaluate" in refused(capsys, "runs/x", "--predictions", jsonl)
    assert "no run folder runs/x" in refused(capsys, "runs/x")
    assert "correct --predictions" in refused(capsys, "--predictions", tmp_path / "gone.jsonl")
    assert "give --dataset and --root" in refused(capsys, "--predictions", text)
    words = ("--predictions", text, "--root", root)
    assert "no data set 'dfow'" in refused(capsys, *words, "--dataset", "dfow")
    assert "emer has no folds" in refused(capsys, *words, "--dataset", "emer", "--fold", "5")
    assert "no split 'dev', only train, test, val" in refused(capsys, *words, "--dataset", "dfew", "--split", "dev")
    write_release(text, {**ANSWERS, "77": "happy"})
    assert "another data set, fold or split" in refused(capsys, *words, "--dataset", "dfew")
    assert "no judge 'oracle'" in refused(capsys, "--predictions", jsonl, "--judge", "oracle")
    assert "no classifier in" in refused(capsys, "--predictions", jsonl, "--judge", f"verifier:{tmp_path}/none")
    assert "holds no judge" in refused(capsys, "--predictions", jsonl, "--judge", _file(tmp_path, "data: {}"))
    broken = _file(tmp_path, "class_path: erv_lightning.judges.VerifierJudge\ninit_args: {pretraind: x}")
    assert "unknown key" in refused(capsys, "--predictions", jsonl, "--judge", broken)
    odd = write_judge(tmp_path / "odd.json", {"99": "happy"})
    assert "1 of 1 ids are not in the predictions" in refused(capsys, "--predictions", jsonl, "--judge-file", odd)


def _file(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "some.yaml"
    path.write_text(text)
    return path


def test_a_run_that_was_never_trained_is_refused(tmp_path, capsys):
    (tmp_path / "sft" / "x").mkdir(parents=True)
    assert "is no run that could be tested" in refused(capsys, tmp_path / "sft" / "x")


def test_a_verifiers_run_has_no_predictions(tmp_path, capsys):
    run = tmp_path / "verifier" / "x"
    run.mkdir(parents=True)
    (run / "config.yaml").write_text("stage: verifier\n")
    assert "see what fools it with --probe-verifier" in refused(capsys, run)


# -- gamed explanations ----------------------------------------------------------------------------------------------


def test_probing_says_which_reward_and_judge_is_fooled(tmp_path, capsys):
    folder = write_verifier(tmp_path / "verifier")
    out = tmp_path / "probes"
    words = ["--probe-verifier", "--verifier", str(folder), "--judge", "grammar", "--out", str(out)]
    assert main(["evaluate", *words]) == 0
    printed = capsys.readouterr().out
    found = json.loads((out / "probes.json").read_text())
    probes = {one["name"]: one for one in found["probes"]}
    assert {"honest", "word repeated", "label list", "one among bland", "negation", "empty", "injection"} <= set(probes)
    assert probes["honest"]["judges"]["grammar"] == 1
    assert probes["negation"]["judges"]["grammar"] == 1  # the grammar finds its phrases, denied or not
    assert "judge grammar" in probes["negation"]["fooled"]
    assert probes["empty"]["rewards"] == dict.fromkeys(probes["empty"]["rewards"], 0.0)
    assert "judge grammar: fooled by negation" in printed
    assert "| negation: y is denied in every sentence |" in (out / "probes.md").read_text()


def test_probing_needs_somebody_to_probe(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "give --verifier FOLDER" in refused(capsys, "--probe-verifier")


def test_labels_of_mafw_have_probes_too(tmp_path):
    out = tmp_path / "probes"
    words = ["--probe-verifier", "--judge", "grammar", "--label-space", "mafw", "--out", str(out)]
    assert main(["evaluate", *words]) == 0
    found = json.loads((out / "probes.json").read_text())
    assert found["probes"][0]["explanations"] == 5 * len(MAFW.names)
