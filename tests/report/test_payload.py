"""What the run report tells its page, from run folders written by hand."""

from __future__ import annotations

import base64
import gzip
import json
import math
import re
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from run_folders import prediction, rollout, write_run

from erv_lightning.report.page import reading
from erv_lightning.report.page.clips import Clip
from erv_lightning.report.page.payload import columns_of, judges_of_runs, missing, payload
from erv_lightning.report.page.reading import load_runs
from erv_lightning.report.page.verdicts import unread
from erv_lightning.report.page.write import render, write_page

SAD = {
    "response": "<think>She weeps. All is still.</think>\n<answer>sad</answer>",
    "explanation": "She weeps. All is still.",
    "answer": "sad",
    "answer_id": 1,
    "sentences": [{"labels": [1, 6], "p": 0.9}, {"labels": [2], "p": 0.4}],
    "judges": {"grammar": 1},
}


def told(*folders: Path, notes: list[str] | None = None, **settings: Any) -> dict[str, Any]:
    """The payload of runs, without figures; notes of the reading go to `notes`."""
    runs, left_out = load_runs(folders, **settings)
    if notes is not None:
        notes += left_out + missing(runs)
    columns = columns_of(runs, judges_of_runs(runs), {})
    return payload(
        title="Runs",
        command="report",
        made=datetime(2026, 1, 2, 3, 4),
        notes=left_out,
        runs=runs,
        columns=columns,
        clips=[Clip(path, path) for path in columns.clips],
        sections=[],
    )


def data_of(page: str) -> Any:
    """What a page was told."""
    packed = re.search(r'id="data">([^<]*)</script>', page)
    assert packed is not None
    return json.loads(gzip.decompress(base64.b64decode(packed[1])))


# -- rows ---------------------------------------------------------------------------------------------------------


def test_equal_texts_and_clips_stand_in_the_page_once(tmp_path: Path) -> None:
    run = write_run(
        tmp_path / "grpo" / "erv-seed1",
        rollouts=[
            rollout(0),
            rollout(0, completion=1, **SAD, reward=1.0),
            rollout(5),
            rollout(5, "b", answer="happy "),
        ],
        predictions=[prediction(), prediction("c", dataset="other", label_id=1, **SAD)],
    )
    page = told(run)
    rows = page["rows"]

    assert page["texts"] == [rollout(0)["response"], SAD["response"]]
    assert page["answers"] == ["happy", "sad", "happy "]
    assert [one["text"] for one in page["explanations"][:2]] == ["He smiles.", SAD["explanation"]]
    assert page["clips"][0] == {"path": "clips/a.mp4", "src": "clips/a.mp4", "why": ""}
    assert page["datasets"] == ["synthetic", "other"]
    assert page["samples"] == [
        {"id": "a", "dataset": 0, "space": "dfew", "label": 0, "clip": 0, "question": "Which emotion?"},
        {"id": "b", "dataset": 0, "space": "dfew", "label": 0, "clip": 1, "question": ""},
        {"id": "c", "dataset": 1, "space": "dfew", "label": 1, "clip": 2, "question": "Which emotion?"},
    ]
    # predictions of several data sets are in the order of their names: "other" before "synthetic"
    assert rows["kind"] == [0, 0, 0, 0, 1, 1]
    assert rows["step"] == [0, 0, 5, 5, -1, -1]
    assert rows["completion"] == [0, 1, 0, 0, 0, 0]
    assert rows["text"] == [0, 1, 0, 0, 1, 0]
    assert rows["answer"] == [0, 1, 0, 2, 1, 0]
    assert rows["tokens"] == [12, 12, 12, 12, -1, -1]
    assert rows["reward"] == [2.0, 1.0, 2.0, 2.0, None, None]
    assert rows["parts"] == {"format": [1.0] * 4 + [None] * 2, "accuracy": [1.0] * 4 + [None] * 2}
    lengths = {name: len(column) for name, column in rows.items() if name not in ("parts", "judged")}
    assert set(lengths.values()) == {6}


def test_rows_tell_right_from_wrong_and_coherent_from_not(tmp_path: Path) -> None:
    cases = {  # answer, label, what the judge read → right, coherent
        (0, 0, 0): (True, True),
        (0, 0, 3): (True, False),
        (3, 0, 3): (False, True),
        (3, 0, 0): (False, False),
        (-1, 0, -1): (False, False),  # no answer and no verdict agree with nothing
        (-1, -1, 0): (False, False),
    }
    made = [
        prediction(str(place), answer_id=answer, label_id=label, judges={"second": 5, "grammar": read})
        for place, (answer, label, read) in enumerate(cases)
    ]
    page = told(write_run(tmp_path / "sft" / "default", predictions=made))

    assert page["judges"] == ["second", "grammar"]
    assert page["rows"]["judged"][0] == [5] * len(cases)
    for place, expected in enumerate(cases.values()):
        answer, read = page["rows"]["answer_id"][place], page["rows"]["judged"][1][place]
        label = page["samples"][page["rows"]["sample"][place]]["label"]
        assert (answer == label >= 0, read == answer >= 0) == expected


def test_the_main_judge_is_one_that_read_every_test(tmp_path: Path) -> None:
    both, one = {"gpt": 0, "grammar": 0}, {"grammar": 0}
    first = write_run(tmp_path / "sft" / "a", predictions=[prediction(judges=both)])
    second = write_run(
        tmp_path / "sft" / "b", predictions=[prediction(judges=one)], rollouts=[rollout(0, judges={"z": 1})]
    )
    assert told(first)["judges"] == ["gpt", "grammar"]
    assert told(first, second)["judges"] == ["grammar", "gpt", "z"]


def test_sentences_have_the_verdicts_that_training_wrote_down(tmp_path: Path) -> None:
    config = {"stage": "grpo", "model": {"init_args": {"verifier": "runs/verifier/default/export"}}}
    unknown = rollout(5, explanation="Nobody read this.", sentences=None)
    run = write_run(
        tmp_path / "grpo" / "x", rollouts=[rollout(0), rollout(0, completion=1, **SAD), unknown], config=config
    )
    page = told(run)

    assert page["explanations"] == [
        {"text": "He smiles.", "sentences": [{"text": "He smiles.", "labels": [0], "p": 0.75}]},
        {
            "text": "She weeps. All is still.",
            "sentences": [
                {"text": "She weeps.", "labels": [1, 6], "p": 0.9},
                {"text": "All is still.", "labels": [2], "p": 0.4},
            ],
        },
        {"text": "Nobody read this.", "sentences": [{"text": "Nobody read this.", "labels": [], "p": None}]},
    ]
    columns = columns_of(load_runs([run])[0], ["grammar"], {})
    assert [one.text for one in unread(columns.explanations.values())] == ["Nobody read this."]


def test_a_space_brings_its_labels_and_a_colour_for_each(tmp_path: Path) -> None:
    page = told(write_run(tmp_path / "sft" / "x", predictions=[prediction(), prediction("b", label_space="mafw")]))

    assert set(page["spaces"]) == {"dfew", "mafw"}
    dfew = page["spaces"]["dfew"]
    assert dfew["names"][dfew["neutral"]] == "neutral"
    assert dfew["colours"][dfew["neutral"]] == "#999999"
    assert len(set(dfew["colours"])) == 7
    assert len(page["spaces"]["mafw"]["colours"]) == 11


def test_rewards_that_do_not_apply_or_are_no_number_are_null(tmp_path: Path) -> None:
    strange = rollout(0, completion=1, reward=math.nan, advantage=math.inf, rewards={"format": None, "care": -math.inf})
    page = told(write_run(tmp_path / "grpo" / "x", rollouts=[rollout(0), strange]))

    assert page["rows"]["reward"] == [2.0, None]
    assert page["rows"]["advantage"] == [0.5, None]
    assert page["rows"]["parts"] == {"format": [1.0, None], "accuracy": [1.0, None], "care": [None, None]}
    assert data_of(render(page)) == page


def test_rows_without_the_whole_response_show_explanation_and_answer(tmp_path: Path) -> None:
    old = {key: value for key, value in rollout(0).items() if key not in ("response", "sentences", "tokens")}
    run = write_run(tmp_path / "grpo" / "x", rollouts=[old])

    assert told(run)["texts"] == ["<think>He smiles.</think>\n<answer>happy</answer>"]
    assert list(columns_of(load_runs([run])[0], [], {}).rebuilt) == ["grpo/x"]


# -- runs ---------------------------------------------------------------------------------------------------------


def test_runs_that_differ_in_their_seed_are_one_arm_and_tested_arms_come_first(tmp_path: Path) -> None:
    names = ("grpo/erv-seed0", "sft/seed0", "sft/seed1")
    runs = [
        write_run(tmp_path / name, rollouts=[rollout(0)], predictions=[prediction()] if "sft" in name else [])
        for name in names
    ]
    page = told(*runs)

    assert [arm["name"] for arm in page["arms"]] == ["sft", "grpo/erv"]
    assert [arm["colour"] for arm in page["arms"]] == ["#808080", "#E69F00"]
    assert [(run["name"], run["arm"], run["seed"], run["stage"]) for run in page["runs"]] == [
        ("grpo/erv-seed0", 1, "seed0", "grpo"),
        ("sft/seed0", 0, "seed0", "sft"),
        ("sft/seed1", 0, "seed1", "sft"),
    ]


def test_runs_of_the_same_name_in_two_trees_are_told_apart_by_their_paths(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / tree / "grpo" / "x", rollouts=[rollout(0)]) for tree in ("one", "two")]
    assert [run["name"] for run in told(*runs)["runs"]] == [str(run) for run in runs]


def test_what_a_run_has_not_left_is_named_with_the_command_that_makes_it(tmp_path: Path) -> None:
    notes: list[str] = []
    told(
        write_run(tmp_path / "grpo" / "new", curves={"train/reward": [1.0]}, config={"stage": "grpo"}),
        write_run(tmp_path / "verifier" / "v", curves={"val/f1_macro": [0.5]}, config={"stage": "verifier"}),
        write_run(tmp_path / "sft" / "s", predictions=[prediction()]),
        notes=notes,
    )
    assert notes == [
        f"grpo/new was not tested: `python -m erv_lightning evaluate {tmp_path}/grpo/new` tests it.",
        "grpo/new has no rollouts.jsonl, which training by reward writes.",
        "sft/s has no metrics.csv, which training writes: there are no curves of it.",
    ]


# -- which steps --------------------------------------------------------------------------------------------------


def steps_of(page: dict[str, Any]) -> list[int]:
    return sorted(set(page["rows"]["step"]))


def test_every_keeps_the_rollouts_of_each_nth_step_from_the_first(tmp_path: Path) -> None:
    rows = [rollout(step, completion=place) for step in (0, 4, 8, 12, 16) for place in range(3)]
    run = write_run(tmp_path / "grpo" / "x", rollouts=rows)

    assert steps_of(told(run, every=2)) == [0, 8, 16]
    assert steps_of(told(run, every=3)) == [0, 12]
    assert len(told(run, every=2)["rows"]["step"]) == 9


def test_too_many_rollouts_are_thinned_by_whole_steps_in_every_run_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # the second run's rows do not begin with their step, as other programs may write them
    first = write_run(tmp_path / "grpo" / "x", rollouts=[rollout(step) for step in range(10)])
    other = [{"id": "z", **rollout(step)} for step in range(10)]
    second = write_run(tmp_path / "grpo" / "y", rollouts=other, predictions=[prediction()])
    notes: list[str] = []
    page = told(first, second, notes=notes, most=8)

    assert steps_of(page) == [-1, 0, 3, 6, 9]
    assert page["rows"]["step"] == [0, 3, 6, 9, 0, 3, 6, 9, -1]
    assert notes[0].startswith("There are 20 rollouts (")
    assert "more than the 8 (300 MB) that stay fluent: shown is one step in 3." in notes[0]
    assert told(first, second, most=20)["notes"] == []

    size = sum((run / "rollouts.jsonl").stat().st_size for run in (first, second))
    monkeypatch.setattr(reading, "MOST_BYTES", size - 1)
    assert steps_of(told(first, second)) == [-1, 0, 2, 4, 6, 8]


def test_a_data_set_can_be_shown_alone(tmp_path: Path) -> None:
    rows = [rollout(0), rollout(0, "b", dataset="mafw_clips")]
    run = write_run(tmp_path / "grpo" / "x", rollouts=rows)
    assert [sample["id"] for sample in told(run, dataset="mafw_clips")["samples"]] == ["b"]
    with pytest.raises(ValueError, match="no run has a clip of data set 'dfew'"):
        told(run, dataset="dfew")


# -- files that are not as they should be --------------------------------------------------------------------------


@pytest.mark.parametrize("file", ["rollouts.jsonl", "predictions.jsonl"])
def test_a_line_that_a_killed_run_did_not_finish_is_left_out_with_a_note(tmp_path: Path, file: str) -> None:
    run = write_run(tmp_path / "grpo" / "x", rollouts=[rollout(0)], predictions=[prediction()])
    whole = len(told(run)["rows"]["kind"])
    with (run / file).open("a") as lines:
        lines.write('{"step": 0, "id": "b", "expl')
    notes: list[str] = []

    assert len(told(run, notes=notes)["rows"]["kind"]) == whole
    assert notes[0] == f"{run / file}:2 is not finished, as a killed or running process leaves it: left out."


def changed(**changes: Any) -> str:
    return json.dumps(rollout(0) | changes)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{broken", "rollouts.jsonl:2: not a JSON object"),
        ("[1]", "rollouts.jsonl:2: not a JSON object, but list"),
        ('{"step": 0}', "rollouts.jsonl:2: no id, dataset"),
        (changed(step="0"), "rollouts.jsonl:2: step is '0', not a whole number"),
        (changed(completion=None), "rollouts.jsonl:2: completion is None"),
        (changed(answer_id=7), "rollouts.jsonl:2: answer_id is 7, allowed is -1 to 6 in dfew"),
        (changed(label_space="klingon"), "rollouts.jsonl:2: no label space 'klingon'"),
        (changed(reward="much"), "rollouts.jsonl:2: reward is 'much', not a number or null"),
        (changed(dataset=None), "rollouts.jsonl:2: dataset is None, not text"),
        (changed(rewards=[1]), "rollouts.jsonl:2: rewards is not an object"),
        (changed(sentences=[{"p": 1}]), "rollouts.jsonl:2: sentences is not a list of objects"),
        (changed(**{**SAD, "sentences": []}), "rollouts.jsonl:2: 0 verdicts in sentences, but the"),
        (
            changed(explanation="New.", sentences=[{"labels": [7], "p": 1.0}]),
            "rollouts.jsonl:2: a sentence has the label 7, allowed is 0 to 6 in dfew",
        ),
    ],
)
def test_a_malformed_row_is_named_by_file_and_line(tmp_path: Path, line: str, message: str) -> None:
    run = write_run(tmp_path / "grpo" / "x", rollouts=[rollout(0)])
    with (run / "rollouts.jsonl").open("a") as lines:
        lines.write(line + "\n")
    with pytest.raises(ValueError, match=re.escape(message)):
        told(run)


def test_folders_that_are_no_runs_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    run = write_run(tmp_path / "grpo" / "x", rollouts=[rollout(0)], config={"stage": "grpo"})
    with pytest.raises(FileNotFoundError, match="no run folder"):
        told(tmp_path / "gone")
    with pytest.raises(FileNotFoundError, match="holds nothing to show"):
        told(tmp_path / "empty")
    with pytest.raises(ValueError, match="is given twice"):
        told(run, run / ".." / "x")
    (run / "metrics.csv").touch()  # as a run has it that has only begun
    assert told(run)["runs"][0]["name"] == "grpo/x"
    (run / "config.yaml").write_text("a: [")
    with pytest.raises(ValueError, match=r"config\.yaml: not YAML"):
        told(run)


# -- the page -----------------------------------------------------------------------------------------------------

HOSTILE = (
    "</script><script>alert(1)</script>",
    "<!-- <script>",
    "{{data}} {{script}} {{title}} {{media}} {{unknown}}",
    "\ud83d half a character, \u2028 and \x00",
    "&lt; ' \" \\",
)


def test_no_text_of_a_model_can_break_out_of_the_page(tmp_path: Path) -> None:
    rows = [
        rollout(0, completion=place, response=text, explanation=text, answer=text, sentences=None)
        for place, text in enumerate(HOSTILE)
    ]
    run = write_run(tmp_path / "grpo" / "x")
    (run / "rollouts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    clean = write_run(tmp_path / "grpo" / "clean", rollouts=[rollout(0)])
    page = told(run)
    page["title"] = HOSTILE[0] + HOSTILE[2]

    html = render(page)
    assert page["texts"] == page["answers"] == list(HOSTILE)
    assert data_of(html) == page
    assert html.count("<script") == render(told(clean)).count("<script")
    assert "<title>&lt;/script&gt;&lt;script&gt;alert(1)&lt;/script&gt;{{data}} " in html


def test_a_page_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    page = told(write_run(tmp_path / "grpo" / "x", rollouts=[rollout(0)]))
    write_page(page, [], tmp_path / "new" / "report.html")
    before = (tmp_path / "new" / "report.html").read_bytes()
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_page({**page, "title": math.nan}, [], tmp_path / "new" / "report.html")

    assert (tmp_path / "new" / "report.html").read_bytes() == before
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["report.html"]


def test_rollouts_whose_sentences_were_read_need_no_torch(tmp_path: Path) -> None:
    run = write_run(tmp_path / "grpo" / "x", rollouts=[rollout(0)], curves={"train/reward": [1.0, 2.0]})
    code = (
        "import sys; from erv_lightning.__main__ import main; "
        f"status = main(['report', {str(run)!r}, '--out', {str(tmp_path / 'page.html')!r}]); "
        "print(status, {'torch', 'transformers'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], text=True, capture_output=True, timeout=120)
    assert done.stdout.splitlines()[-1] == "0 set()", done.stderr
