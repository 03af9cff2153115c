r"""The files of ERV's release: predictions as text, verdicts of a judge as JSON. Knows no model and no metric.

A prediction file holds samples ``id|<think>…</think>\n<answer>x</answer>``. The response may run over several lines; a
new sample starts at a line whose text before the first ``|`` is all ASCII digits. A judge file is a JSON list of
``{id: {"reason": …, "gpt_response": label}}``.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from erv_lightning.labels import LabelSpace, get_label_space
from erv_lightning.predictions import prediction

if TYPE_CHECKING:
    from erv_lightning.data.sample import Sample

SHOWN = 10  # ids or problems listed in one message
_Value = TypeVar("_Value", str, int)
_START = re.compile(r"([0-9]+)\|")  # of a line: a new sample


# -- reading ---------------------------------------------------------------------------------------------------


def read_responses(path: Path) -> dict[str, str]:
    """Reads a prediction file.

    A byte order mark and the line ends of any system are accepted. Line breaks at a response's end are dropped.

    Args:
        path: the file, UTF-8.

    Returns:
        Id, as it stands in the file → response, in the file's order.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: it is not UTF-8, holds no sample, has text before the first one, or an id stands twice.
    """
    lines_by_id: dict[str, list[str]] = {}
    places: dict[str, int] = {}
    current: list[str] | None = None
    problems = []
    for number, line in enumerate(_read(path).split("\n"), start=1):  # splitlines() would break at U+2028 too
        if start := _START.match(line):
            name, line = start[1], line[start.end() :]
            if name in places:
                problems.append(f"{path}:{number}: the id {name} stands already in line {places[name]}")
            places.setdefault(name, number)
            current = lines_by_id[name] = []
        if current is not None:
            current.append(line)
        elif line.strip():
            raise ValueError(
                f"{path}:{number}: text before the first sample, {line[:40]!r}: a sample starts with its id, all "
                "digits, and |"
            )
    if problems:
        raise ValueError(_some(problems, "; "))
    if not lines_by_id:
        raise ValueError(f"{path} holds no sample: is the file complete?")
    return {name: "\n".join(lines).rstrip("\n") for name, lines in lines_by_id.items()}


def read_verdicts(path: Path, space: LabelSpace) -> dict[str, int]:
    """Reads a judge file.

    An element of the list may hold several ids. A verdict outside the label space counts as neutral (method:
    Evaluation).

    Args:
        path: the file, UTF-8.
        space: the labels of the data set that was judged.

    Returns:
        Id, as it stands in the file → label id, in the file's order.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: it is not UTF-8, not JSON or no list; all bad entries at once, which are those without a
            ``gpt_response`` and the ids that stand twice with different verdicts.
    """
    verdicts: dict[str, int] = {}
    problems = []
    for number, element in enumerate(_read_list(path), start=1):
        if not isinstance(element, dict):
            problems.append(f"entry {number} is {_kind(element)}, not an object of id → verdict")
            continue
        for name, entry in element.items():
            word = entry.get("gpt_response") if isinstance(entry, dict) else None
            if not isinstance(word, str):
                problems.append(f"entry {number}, id {name}, has no gpt_response that is text")
                continue
            index = space.id(word)
            index = space.neutral if index < 0 else index
            if verdicts.setdefault(name, index) != index:
                one, other = space.names[verdicts[name]], space.names[index]
                problems.append(f"entry {number}, id {name}, says {other}, but one before it {one}: keep one of them")
    if problems:
        raise ValueError(f"{path}: {_some(problems, '; ')}")
    return verdicts


def predictions(
    responses: Mapping[str, str], samples: Sequence[Sample], verdicts: Mapping[str, int] | None, judge: str
) -> tuple[list[dict[str, Any]], list[str]]:
    """Rows of predictions.jsonl from what the files of the release say of a data set's samples.

    A sample is the one with an id of the files exactly, else with the same number: ``00025``, ``25`` and ``00025.mp4``
    are one clip. A sample without a response counts as unparsable. As in the release, a sample whose answer is no valid
    label earns nothing in any metric, its explanation included: its verdict becomes -1.

    Args:
        responses: id → response, see `read_responses`.
        samples: all samples of one split of one data set.
        verdicts: id → label id, see `read_verdicts`; None where no judge has read the explanations.
        judge: what to call the judge in the rows.

    Returns:
        The rows, in the order of `samples`, and warnings, one line each: samples without a response, and samples with
        a valid answer but without a verdict, which becomes -1.

    Raises:
        ValueError: samples of several data sets, an id that belongs to no sample or to several, or two ids that belong
            to one.
    """
    _one_data_set({sample.dataset for sample in samples})
    given = _by_sample(responses, samples, "prediction file")
    judged = None if verdicts is None else _by_sample(verdicts, samples, "judge file")
    rows = [prediction(sample, given.get(sample.id, "")) for sample in samples]
    warnings = []
    if missing := [sample.id for sample in samples if sample.id not in given]:
        warnings.append(
            f"{len(missing)} of {len(samples)} samples have no response in the prediction file and count as "
            f"unparsable: {_some(missing)}"
        )
    return rows, warnings if judged is None else warnings + _judge(rows, judged, judge)


def _judge(rows: Sequence[dict[str, Any]], verdicts: Mapping[str, int], judge: str) -> list[str]:
    """Puts the verdicts into the rows; returns a warning where some are missing."""
    for row in rows:
        row["judges"] = {judge: verdicts.get(row["id"], -1) if row["answer_id"] >= 0 else -1}
    answered = [row["id"] for row in rows if row["answer_id"] >= 0]
    missing = [name for name in answered if name not in verdicts]
    if not missing:
        return []
    return [
        f"{len(missing)} of {len(answered)} samples with a valid answer have no verdict in the judge file and agree "
        f"with nothing: {_some(missing)}"
    ]


def _by_sample(values: Mapping[str, _Value], samples: Sequence[Sample], file: str) -> dict[str, _Value]:
    """What a file says, by the id of the sample that each of its ids belongs to."""
    exact = {sample.id for sample in samples}
    numbered: dict[str, list[str]] = defaultdict(list)
    for sample in samples:
        numbered[_number(sample.id)].append(sample.id)
    owners = {name: [name] if name in exact else numbered.get(_number(name) or name, []) for name in values}

    if unknown := [name for name, found in owners.items() if not found]:
        raise ValueError(
            f"{len(unknown)} of {len(values)} ids of the {file} belong to none of the {len(samples)} samples: "
            f"{_some(unknown)}; is it another data set, fold or split?"
        )
    problems = [f"{name} is {' and '.join(found)}" for name, found in owners.items() if len(found) > 1]
    names_of: dict[str, list[str]] = defaultdict(list)
    for name, found in owners.items():
        names_of[found[0]].append(name)
    problems += [f"{' and '.join(names)} are both {found}" for found, names in names_of.items() if len(names) > 1]
    if problems:
        raise ValueError(f"ids of the {file} that do not tell samples apart: {_some(problems, '; ')}")
    return {owners[name][0]: value for name, value in values.items()}


# -- writing ---------------------------------------------------------------------------------------------------


def write_responses(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    r"""Writes a prediction file.

    An id is carried as it is if it is all digits, else as its stem: ``00025.mp4`` becomes ``00025``. Reading gives the
    responses back but for three things that the format cannot hold: line ends become ``\n``, those at a response's end
    are lost, and a line inside it that looks like a new sample gets a leading blank. Characters that are not Unicode
    text become ``?``.

    Args:
        rows: rows of predictions.jsonl, of one data set.
        path: the file; its folder is made. It is complete or not there.

    Raises:
        ValueError: no rows, rows of several data sets, rows without a response, an id without an all-digit stem, or two
            that become one.
    """
    _write("".join(f"{name}|{_guarded(row['response'])}\n" for name, row in _carried(rows, "response").items()), path)


def write_verdicts(rows: Sequence[Mapping[str, Any]], judge: str, path: Path) -> None:
    """Writes a judge file, with the ids of `write_responses`.

    Rows without a verdict (-1) are left out, since the format has no word for it: any but a label reads as neutral. A
    sample that the file lacks reads as -1, with a warning where its answer is valid. A verdict on a row without a valid
    answer is written, but `predictions` makes -1 of it.

    Args:
        rows: rows of predictions.jsonl, of one data set.
        judge: whose verdicts, a key of the rows' ``judges``.
        path: the file; its folder is made. It is complete or not there.

    Raises:
        ValueError: as `write_responses`, or rows that this judge has not read.
    """
    carried = _carried(rows, "explanation")
    if unread := [str(row["id"]) for row in rows if judge not in (row.get("judges") or {})]:
        known = ", ".join(sorted({name for row in rows for name in row.get("judges") or {}})) or "no judge"
        raise ValueError(
            f"judge {judge!r} has not read {len(unread)} of {len(rows)} rows: {_some(unread)}; read by {known}"
        )
    entries = [
        {name: {"reason": row["explanation"], "gpt_response": _label(row, judge)}}
        for name, row in carried.items()
        if row["judges"][judge] >= 0
    ]
    _write(json.dumps(entries, ensure_ascii=False, indent=2) + "\n", path)


def _label(row: Mapping[str, Any], judge: str) -> str:
    space = get_label_space(row["label_space"])
    return space.names[int(row["judges"][judge])]


def _guarded(response: str) -> str:
    """The response, with a blank before each further line that would read as a new sample."""
    first, *more = re.split(r"\r\n|\r|\n", response)
    return "\n".join([first, *(f" {line}" if _START.match(line) else line for line in more)])


def _carried(rows: Sequence[Mapping[str, Any]], text: str) -> dict[str, Mapping[str, Any]]:
    """The rows by the ids that the files can hold; `text` is the key of what the file is to hold of them."""
    if not rows:
        raise ValueError("no rows to write: an empty file could not be read back")
    _one_data_set({row["dataset"] for row in rows})
    ids = [str(row["id"]) for row in rows]
    if bare := [name for name, row in zip(ids, rows, strict=True) if not isinstance(row.get(text), str)]:
        raise ValueError(f"{len(bare)} of {len(ids)} rows have no {text}: {_some(bare)}; test the run again")
    if bad := [name for name in ids if not _digits(name)]:
        raise ValueError(
            f"{len(bad)} of {len(ids)} ids have no all-digit stem, as the release's files need: {_some(bad)}; "
            "number the samples, or keep predictions.jsonl"
        )
    if twice := [name for name, count in Counter(map(_digits, ids)).items() if count > 1]:
        raise ValueError(f"several rows would have the id {_some(twice)}: give each sample a number of its own")
    return dict(zip(map(_digits, ids), rows, strict=True))


# -- ids and files ---------------------------------------------------------------------------------------------


def _digits(name: str) -> str:
    """An id, or else its stem, where all of it is digits; "" for any other."""
    return next((one for one in (name, Path(name).stem) if re.fullmatch(r"[0-9]+", one)), "")


def _number(name: str) -> str:
    """The number of an id without leading zeros, "" where it has none. Text, as int() refuses very long ones."""
    digits = _digits(name)
    return digits.lstrip("0") or digits[-1:]


def _one_data_set(names: set[str]) -> None:
    if len(names) > 1:
        raise ValueError(f"the release has one file for each data set, but these are {', '.join(sorted(names))}")


def _some(names: Sequence[str], separator: str = ", ") -> str:
    """The first few, and how many more there are."""
    more = [f"and {len(names) - SHOWN} more"] if len(names) > SHOWN else []
    return separator.join([*names[:SHOWN], *more])


def _kind(value: object) -> str:
    return "null" if value is None else type(value).__name__


def _read(path: Path) -> str:
    if not path.is_file():
        raise FileNotFoundError(f"no file {str(path)!r}")
    try:
        return path.read_text(encoding="utf-8-sig")  # turns every line end into \n
    except UnicodeDecodeError as error:
        raise ValueError(f"{str(path)!r} is not UTF-8 text: save it as UTF-8") from error


def _read_list(path: Path) -> list[Any]:
    try:
        content = json.loads(_read(path))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}:{error.lineno}: not JSON ({error.msg}): is the file complete?") from error
    if not isinstance(content, list):
        raise ValueError(f"{path}: a judge file is a JSON list of {{id: verdict}}, this is {_kind(content)}")
    return content


def _write(text: str, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        unfinished.write_text(text, encoding="utf-8", errors="replace", newline="\n")
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
