"""The files of ERV's release: what is read from them, what earns nothing, and that writing and reading agree."""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from erv_lightning.data.readers import Dfew, Mafw
from erv_lightning.data.sample import QUESTION, Sample
from erv_lightning.labels import DFEW, MAFW, LabelSpace
from erv_lightning.predictions import prediction
from erv_lightning.release import predictions, read_responses, read_verdicts, write_responses, write_verdicts
from erv_lightning.results import load_predictions

HAPPY = "<think>She laughs.</think>\n<answer>happy</answer>"
SAD = "<think>He weeps.</think>\n<answer>sad</answer>"


def saved(folder: Path, content: str | bytes, name: str = "dfew.txt") -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def sample(name: str, label: str = "happy", space: str = "dfew") -> Sample:
    return Sample(name, space, f"clips/{name}.mp4", QUESTION, space, label, "test")


def row(name: str, response: str = HAPPY, verdict: int | None = 0, space: str = "dfew") -> dict[str, Any]:
    label = {"dfew": "happy", "mafw": "happiness"}[space]
    return prediction(sample(name, label, space), response) | {"judges": {} if verdict is None else {"gpt": verdict}}


# -- prediction files ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "responses"),
    [
        pytest.param(f"1|{HAPPY}\n2|{SAD}\n", {"1": HAPPY, "2": SAD}, id="two samples"),
        pytest.param(f"2|{SAD}\n1|{HAPPY}", {"2": SAD, "1": HAPPY}, id="the file's order, no final line end"),
        pytest.param("00025|<think>a\n\n\nb</think>\n\n", {"00025": "<think>a\n\n\nb</think>"}, id="blank lines"),
        pytest.param("1|a|b\nc|d\n|e\n", {"1": "a|b\nc|d\n|e"}, id="bars in the text"),
        pytest.param(
            "1|a\n12 | no\n x12|no\n-3|no\n1.5|no\n", {"1": "a\n12 | no\n x12|no\n-3|no\n1.5|no"}, id="digits"
        ),
        pytest.param(
            "1|a\n２５|no\n٣|no\n²|no", {"1": "a\n２５|no\n٣|no\n²|no"}, id="only ASCII digits number a sample"
        ),
        pytest.param("1|a\u2028 2|no\x0b3|no\x854|no", {"1": "a\u2028 2|no\x0b3|no\x854|no"}, id="other line breaks"),
        pytest.param("1|2|a\n", {"1": "2|a"}, id="the first bar counts"),
        pytest.param("1|\n2|\n\n", {"1": "", "2": ""}, id="empty responses"),
        pytest.param("\n \n1|a\n", {"1": "a"}, id="blank lines before the first sample"),
        pytest.param("25|a\n025|b\n", {"25": "a", "025": "b"}, id="ids as they stand"),
        pytest.param("1|  a \n", {"1": "  a "}, id="blanks are kept"),
    ],
)
@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"], ids=["unix", "windows", "old mac"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"], ids=["plain", "BOM"])
def test_a_sample_starts_at_a_line_with_a_number_and_a_bar(
    content: str, responses: dict[str, str], line_end: str, mark: bytes, tmp_path: Path
) -> None:
    found = read_responses(saved(tmp_path, mark + content.replace("\n", line_end).encode()))
    assert found == responses
    assert list(found) == list(responses)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "{path} holds no sample: is the file complete?"),
        ("\n \n", "{path} holds no sample: is the file complete?"),
        (
            "\nid|response\n1|a\n",
            "{path}:2: text before the first sample, 'id|response': a sample starts with its id, all digits, and |",
        ),
        (
            "1|a\n2|b\n\n1|c\n2|d\n1|e\n",
            "{path}:4: the id 1 stands already in line 1; {path}:5: the id 2 stands already in line 2; "
            "{path}:6: the id 1 stands already in line 1",
        ),
        (b"1|caf\xe9\n", "'{path}' is not UTF-8 text: save it as UTF-8"),
        (b"\xff\xfe1\x00|\x00", "'{path}' is not UTF-8 text: save it as UTF-8"),
    ],
    ids=["empty", "blank", "header", "twice", "latin-1", "utf-16"],
)
def test_a_prediction_file_that_is_none_says_where(content: str | bytes, message: str, tmp_path: Path) -> None:
    path = saved(tmp_path, content)
    with pytest.raises(ValueError, match=f"^{re.escape(message.format(path=path))}$"):
        read_responses(path)


def test_a_long_list_of_problems_is_cut(tmp_path: Path) -> None:
    path = saved(tmp_path, "1|a\n" * 14)
    with pytest.raises(ValueError, match=r":11: the id 1 stands already in line 1; and 3 more$"):
        read_responses(path)


@pytest.mark.parametrize("read", [read_responses, lambda path: read_verdicts(path, DFEW)], ids=["text", "json"])
def test_a_file_that_is_missing_is_named(read: Any, tmp_path: Path) -> None:
    for path in (tmp_path / "none.txt", tmp_path):
        with pytest.raises(FileNotFoundError, match=f"^no file '{re.escape(str(path))}'$"):
            read(path)


# -- judge files -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "space", "verdicts"),
    [
        ('[{"1": {"reason": "She laughs.", "gpt_response": "happy"}}]', DFEW, {"1": 0}),
        ('[{"2": {"gpt_response": "fear"}}, {"1": {"gpt_response": "sad"}}]', DFEW, {"2": 6, "1": 1}),
        ('[{"2": {"gpt_response": "fear"}, "1": {"gpt_response": "sad"}}]', DFEW, {"2": 6, "1": 1}),
        ('[{"00025": {"gpt_response": " Happiness.\\n"}}]', MAFW, {"00025": 3}),
        ('[{"1": {"gpt_response": "happy"}}, {"1": {"gpt_response": "joyful"}}]', DFEW, {"1": 0}),
        # what names no label is neutral: DFEW's 2, MAFW's 4
        ('[{"1": {"gpt_response": "contempt"}}, {"2": {"gpt_response": ""}}]', DFEW, {"1": 2, "2": 2}),
        ('[{"1": {"gpt_response": "happy or sad"}}, {"2": {"gpt_response": "calm"}}]', MAFW, {"1": 4, "2": 4}),
        ("\ufeff[]", DFEW, {}),
    ],
    ids=["one", "file's order", "several to an element", "other words", "said twice", "DFEW", "MAFW", "nothing"],
)
def test_a_verdict_is_the_label_it_names_or_neutral(
    content: str, space: LabelSpace, verdicts: dict[str, int], tmp_path: Path
) -> None:
    found = read_verdicts(saved(tmp_path, content), space)
    assert found == verdicts
    assert list(found) == list(verdicts)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('[{"1": {"gpt_resp', "{path}:1: not JSON (Unterminated string starting at): is the file complete?"),
        ("[\n{}\n", "{path}:3: not JSON (Expecting ',' delimiter): is the file complete?"),
        ("", "{path}:1: not JSON (Expecting value): is the file complete?"),
        (b'["\xe9"]', "'{path}' is not UTF-8 text: save it as UTF-8"),
        ('{"1": {"gpt_response": "happy"}}', "{path}: a judge file is a JSON list of {{id: verdict}}, this is dict"),
        ("null", "{path}: a judge file is a JSON list of {{id: verdict}}, this is null"),
        (
            '[1, {"1": {"reason": "none"}, "2": "sad"}, {"3": {"gpt_response": null}}, {"4": {"gpt_response": "sad"}}]',
            "{path}: entry 1 is int, not an object of id → verdict; "
            "entry 2, id 1, has no gpt_response that is text; entry 2, id 2, has no gpt_response that is text; "
            "entry 3, id 3, has no gpt_response that is text",
        ),
        (
            '[{"1": {"gpt_response": "happy"}}, {"1": {"gpt_response": "sad"}}]',
            "{path}: entry 2, id 1, says sad, but one before it happy: keep one of them",
        ),
    ],
    ids=["cut", "cut list", "empty", "latin-1", "an object", "null", "bad entries", "two verdicts"],
)
def test_a_judge_file_that_is_none_says_where(content: str | bytes, message: str, tmp_path: Path) -> None:
    path = saved(tmp_path, content, "judge.json")
    with pytest.raises(ValueError, match=f"^{re.escape(message.format(path=path))}$"):
        read_verdicts(path, DFEW)


# -- rows ------------------------------------------------------------------------------------------------------


def test_rows_are_those_of_predictions_jsonl_in_the_order_of_the_samples(tmp_path: Path) -> None:
    samples = [sample("7", "sad"), sample("3")]
    rows, warnings = predictions({"3": HAPPY, "7": SAD}, samples, {"3": 0, "7": 6}, "gpt-4.1-mini")
    assert warnings == []
    assert rows == [
        prediction(samples[0], SAD) | {"judges": {"gpt-4.1-mini": 6}},
        prediction(samples[1], HAPPY) | {"judges": {"gpt-4.1-mini": 0}},
    ]
    saved(tmp_path, "".join(json.dumps(one) + "\n" for one in rows), "predictions.jsonl")
    assert load_predictions(tmp_path)[["id", "answer_id", "label_id"]].values.tolist() == [["3", 0, 0], ["7", 1, 1]]


def test_a_row_says_which_video_its_clip_is_from() -> None:
    rows, _ = predictions({"1": HAPPY}, [replace(sample("1"), source="film-4")], None, "")
    assert rows[0]["source"] == "film-4"


def test_without_a_judge_file_there_are_no_verdicts() -> None:
    rows, warnings = predictions({"1": HAPPY, "2": "no answer"}, [sample("1"), sample("2")], None, "gpt")
    assert [one["judges"] for one in rows] == [{}, {}]
    assert warnings == []


@pytest.mark.parametrize("in_file", ["25", "00025", "025"])
@pytest.mark.parametrize("of_sample", ["25", "00025", "00025.mp4"])
def test_ids_are_the_same_if_their_numbers_are(in_file: str, of_sample: str) -> None:
    samples = [sample("1"), sample(of_sample)]
    rows, warnings = predictions({"1": SAD, in_file: HAPPY}, samples, {in_file: 0, "001": 1}, "gpt")
    assert [(one["id"], one["response"], one["judges"]["gpt"]) for one in rows] == [
        ("1", SAD, 1),
        (of_sample, HAPPY, 0),
    ]
    assert warnings == []


def test_an_id_that_is_a_samples_own_is_that_samples() -> None:
    samples = [sample("25"), sample("00025"), sample("00"), sample("clip")]
    rows, _ = predictions({"00025": SAD, "25": HAPPY, "0": SAD}, samples, {"clip": 0}, "gpt")
    assert [one["response"] for one in rows] == [HAPPY, SAD, SAD, ""]


def test_the_files_match_what_the_dfew_reader_calls_its_clips(tmp_path: Path) -> None:
    (tmp_path / "label").mkdir()
    (tmp_path / "clip").mkdir()
    with (tmp_path / "label/single_testset_5.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("video_name", "label"), ("00025", 2), ("3", 1), ("00110.mp4", 7)])
    samples = Dfew(str(tmp_path)).samples("test")
    rows, warnings = predictions({"110": SAD, "00003": HAPPY, "25": SAD}, samples, None, "")
    assert [(one["id"], one["label"], one["response"]) for one in rows] == [
        ("25", "sad", SAD),
        ("3", "happy", HAPPY),
        ("110", "fear", SAD),
    ]
    assert warnings == []


def test_the_files_match_what_the_mafw_reader_calls_its_clips(tmp_path: Path) -> None:
    (tmp_path / "clips").mkdir()
    (tmp_path / "Train & Test Set/single/no_caption/set_5").mkdir(parents=True)
    saved(tmp_path, "00025.mp4 anger\n00003.mp4 sadness\n", "Train & Test Set/single/no_caption/set_5/test.txt")
    samples = Mafw(str(tmp_path)).samples("test")
    rows, warnings = predictions({"3": SAD, "00025": HAPPY}, samples, {"25": 3, "00003": 5}, "gpt")
    assert [(one["id"], one["label"], one["answer_id"], one["judges"]) for one in rows] == [
        ("00025", "anger", 3, {"gpt": 3}),
        ("00003", "sadness", 5, {"gpt": 5}),
    ]
    assert warnings == []


def test_a_sample_that_the_file_lacks_is_unparsable_and_one_line_says_how_many() -> None:
    samples = [sample(str(number)) for number in range(1, 15)]
    rows, warnings = predictions({"2": HAPPY, "5": HAPPY}, samples, {"1": 0, "2": 0, "5": 0}, "gpt")
    missing = next(one for one in rows if one["id"] == "1")
    assert (missing["response"], missing["answer_id"], missing["judges"]) == ("", -1, {"gpt": -1})
    assert [one["judges"]["gpt"] for one in rows if one["response"]] == [0, 0]
    assert warnings == [
        "12 of 14 samples have no response in the prediction file and count as unparsable: "
        "1, 3, 4, 6, 7, 8, 9, 10, 11, 12, and 2 more"
    ]


@pytest.mark.parametrize(
    "response",
    [
        "",
        "She is happy.",
        "<think>She laughs.</think>\n<answer>happy",
        "<think>She laughs.</think>\n<answer>happy and sad</answer>",
        "<think>She laughs.</think>\n<answer>contempt</answer>",
        "<think>She laughs.</think>\n<answer>happy</answer><answer>sad</answer>",
    ],
)
def test_an_explanation_without_a_valid_answer_earns_nothing(response: str) -> None:
    rows, warnings = predictions({"1": response, "2": HAPPY}, [sample("1"), sample("2")], {"1": 0, "2": 0}, "gpt")
    assert [(one["answer_id"], one["judges"]["gpt"]) for one in rows] == [(-1, -1), (0, 0)]
    assert warnings == []


def test_a_valid_answer_without_a_verdict_is_counted_in_a_warning() -> None:
    samples = [sample(name) for name in "1234"]
    rows, warnings = predictions({"1": HAPPY, "2": SAD, "3": "", "4": SAD}, samples, {"1": 0}, "gpt")
    assert [one["judges"]["gpt"] for one in rows] == [0, -1, -1, -1]
    assert warnings == [
        "2 of 3 samples with a valid answer have no verdict in the judge file and agree with nothing: 2, 4"
    ]


@pytest.mark.parametrize(
    ("responses", "verdicts", "samples", "message"),
    [
        (
            ["1", "7", "8"],
            None,
            ["1", "2"],
            "2 of 3 ids of the prediction file belong to none of the 2 samples: 7, 8; is it another data set, fold or "
            "split?",
        ),
        (
            ["1"],
            ["1", "x.mp4"],
            ["1", "y"],
            "1 of 2 ids of the judge file belong to none of the 2 samples: x.mp4; is it another data set, fold or "
            "split?",
        ),
        (
            ["1", "25", "00025", "01"],
            None,
            ["1", "25"],
            "ids of the prediction file that do not tell samples apart: 1 and 01 are both 1; 25 and 00025 are both 25",
        ),
        (
            ["1"],
            ["1", "5"],
            ["1", "05", "005"],
            "ids of the judge file that do not tell samples apart: 5 is 05 and 005",
        ),
    ],
    ids=["strangers", "a stranger to the judge", "two ids, one sample", "one id, two samples"],
)
def test_ids_that_lead_nowhere_or_too_far_are_errors(
    responses: list[str], verdicts: list[str] | None, samples: list[str], message: str
) -> None:
    judged = None if verdicts is None else dict.fromkeys(verdicts, 0)
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        predictions(dict.fromkeys(responses, HAPPY), [sample(name) for name in samples], judged, "gpt")


def test_a_file_is_of_one_data_set() -> None:
    message = "the release has one file for each data set, but these are dfew, mafw"
    with pytest.raises(ValueError, match=f"^{message}$"):
        predictions({"1": HAPPY}, [sample("1"), sample("2", "anger", "mafw")], None, "")


# -- writing ---------------------------------------------------------------------------------------------------


def test_responses_are_written_as_the_release_writes_them(tmp_path: Path) -> None:
    path = tmp_path / "new" / "dfew.txt"
    write_responses([row("25"), row("00026.mp4", "12|a\r\n\n34|b\n5 |c\r6|d"), row("27", "")], path)
    assert path.read_bytes().decode() == f"25|{HAPPY}\n00026|12|a\n\n 34|b\n5 |c\n 6|d\n27|\n"
    assert [one.name for one in path.parent.iterdir()] == ["dfew.txt"]


def test_verdicts_are_written_as_the_release_writes_them(tmp_path: Path) -> None:
    path = tmp_path / "judge.json"
    response = "<think>Elle sourit à “lui”.</think>\n<answer>happiness</answer>"
    write_verdicts([row("00025.mp4", response, 3, "mafw"), row("3", SAD, -1, "mafw")], "gpt", path)
    assert json.loads(path.read_text(encoding="utf-8")) == [
        {"00025": {"reason": "Elle sourit à “lui”.", "gpt_response": "happiness"}}
    ]
    assert "à “lui”" in path.read_text(encoding="utf-8")


def test_what_was_written_reads_back_as_the_same_rows(tmp_path: Path) -> None:
    samples = [sample("00025", "anger", "mafw"), sample("00003", "sadness", "mafw"), sample("00007", "fear", "mafw")]
    responses = {"00025": HAPPY, "00003": SAD, "00007": "I cannot tell."}
    rows, _ = predictions(responses, samples, {"00025": 10, "00003": 5}, "gpt")
    write_responses(rows, tmp_path / "mafw.txt")
    write_verdicts(rows, "gpt", tmp_path / "mafw.json")
    verdicts = read_verdicts(tmp_path / "mafw.json", MAFW)
    assert predictions(read_responses(tmp_path / "mafw.txt"), samples, verdicts, "gpt") == (rows, [])


def test_a_row_without_a_verdict_reads_back_as_one_without(tmp_path: Path) -> None:
    write_verdicts([row("1"), row("2", SAD, -1)], "gpt", tmp_path / "judge.json")
    verdicts = read_verdicts(tmp_path / "judge.json", DFEW)
    rows, warnings = predictions({"1": HAPPY, "2": SAD}, [sample("1"), sample("2")], verdicts, "gpt")
    assert [one["judges"]["gpt"] for one in rows] == [0, -1]
    assert len(warnings) == 1


# what the format itself is made of meets every branch far sooner than arbitrary text
LINES = st.lists(st.sampled_from(["\n", "\n\n", "1|", "25|", "|", "1", " ", "²|", "\u2028", "\x0c", "<think>"]))
RESPONSES = LINES.map("".join) | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r"))


@settings(deadline=None)
@given(responses=st.dictionaries(st.from_regex(r"[0-9]{1,6}", fullmatch=True), RESPONSES, min_size=1, max_size=4))
def test_any_response_survives_but_for_its_last_line_ends_and_a_blank(
    responses: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.txt"
    write_responses([row(name, text) for name, text in responses.items()], path)
    found = read_responses(path)
    assert list(found) == list(responses)
    for name, text in responses.items():
        first, *more = text.rstrip("\n").split("\n")
        # the definition once more: a line whose text before the first | is all ASCII digits
        starts = [head.isascii() and head.isdigit() and "|" in line for line in more for head in [line.split("|")[0]]]
        blanked = [" " * start + line for line, start in zip(more, starts, strict=True)]
        assert found[name] == "\n".join([first, *blanked])
    write_responses([row(name, text) for name, text in found.items()], path)
    assert read_responses(path) == found


@settings(deadline=None)
@given(verdicts=st.dictionaries(st.from_regex(r"[0-9]{1,6}", fullmatch=True), st.integers(0, 10), min_size=1))
def test_any_verdict_survives(verdicts: dict[str, int], tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "any.json"
    write_verdicts([row(name, HAPPY, verdict, "mafw") for name, verdict in verdicts.items()], "gpt", path)
    assert read_verdicts(path, MAFW) == verdicts


def test_half_a_character_becomes_a_question_mark(tmp_path: Path) -> None:
    rows = [row("1", "<think>a \ud83d b</think>")]
    write_responses(rows, tmp_path / "dfew.txt")
    write_verdicts(rows, "gpt", tmp_path / "judge.json")
    assert read_responses(tmp_path / "dfew.txt") == {"1": "<think>a ? b</think>"}
    assert '"a ? b"' in (tmp_path / "judge.json").read_text()


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "no rows to write: an empty file could not be read back"),
        (
            [row("1"), row("2", space="mafw")],
            "the release has one file for each data set, but these are dfew, mafw",
        ),
        (
            [row("sample_01"), row("2"), row("٣")],
            "2 of 3 ids have no all-digit stem, as the release's files need: sample_01, ٣; number the samples, or "
            "keep predictions.jsonl",
        ),
        (
            [row("1"), row("1.mp4"), row("01")],
            "several rows would have the id 1: give each sample a number of its own",
        ),
    ],
    ids=["none", "two data sets", "no numbers", "twice"],
)
@pytest.mark.parametrize("write", [write_responses, lambda rows, path: write_verdicts(rows, "gpt", path)])
def test_rows_that_the_files_cannot_hold_are_errors_and_leave_no_file(
    rows: list[dict[str, Any]], message: str, write: Any, tmp_path: Path
) -> None:
    path = saved(tmp_path, "as it was")
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        write(rows, path)
    assert [(one.name, one.read_text()) for one in tmp_path.iterdir()] == [("dfew.txt", "as it was")]


def test_rows_without_text_are_errors(tmp_path: Path) -> None:
    rows = [row("1"), {"id": "2", "dataset": "dfew", "judges": {"gpt": 0}}, {"id": "3", "dataset": "dfew"}]
    with pytest.raises(ValueError, match=r"^2 of 3 rows have no response: 2, 3; test the run again$"):
        write_responses(rows, tmp_path / "dfew.txt")
    with pytest.raises(ValueError, match=r"^2 of 3 rows have no explanation: 2, 3; test the run again$"):
        write_verdicts(rows, "gpt", tmp_path / "judge.json")


def test_a_judge_that_has_not_read_every_row_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "judge.json"
    with pytest.raises(ValueError, match=r"^judge 'qwen' has not read 2 of 2 rows: 1, 2; read by gpt$"):
        write_verdicts([row("1"), row("2", verdict=None)], "qwen", path)
    with pytest.raises(ValueError, match=r"^judge 'gpt' has not read 1 of 1 rows: 2; read by no judge$"):
        write_verdicts([row("2", verdict=None)], "gpt", path)


@pytest.mark.parametrize("write", [write_responses, lambda rows, path: write_verdicts(rows, "gpt", path)])
def test_a_failed_write_leaves_the_old_file_and_no_other(
    write: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Path, *_: object, **__: object) -> int:
        self.touch()
        raise OSError(28, "No space left on device")

    path = saved(tmp_path, "as it was")
    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="No space left"):
        write([row("1")], path)
    assert [(one.name, one.read_bytes()) for one in tmp_path.iterdir()] == [("dfew.txt", b"as it was")]


def test_the_module_is_light() -> None:
    code = "import sys, erv_lightning.release; assert not {'torch', 'pandas', 'transformers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
