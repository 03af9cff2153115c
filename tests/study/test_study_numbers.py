"""What a study's answers say, against numbers worked out by hand and against other libraries."""

from __future__ import annotations

import io
import json
import math
import re
from itertools import product
from typing import Any

import krippendorff
import numpy as np
import pandas as pd
import pytest
from rich.console import Console
from scipy.stats import binomtest
from statsmodels.stats.inter_rater import aggregate_raters, fleiss_kappa

from erv_lightning.report import study as report
from erv_lightning.study.agreement import of_explanations
from erv_lightning.study.numbers import analyse, failed_checks

LABELS = ("happy", "sad", "neutral", "angry", "unclear")


def answer(rater: str, clip: str, **values: Any) -> dict[str, Any]:
    """A row: clip of a happy person, where A answers sad and B happy."""
    good = {"dataset": "d", "id": clip, "source": "", "label_space": "dfew", "label": "happy", "rater": rater}
    said = {"arm_a": "base", "arm_b": "ours", "answer_a": "sad", "answer_b": "happy", "left": "a", "preferred": "b"}
    read = {"conveyed_a": "happy", "conveyed_b": "happy", "passed": "", "seconds": "10", "comment": ""}
    return {**good, **said, **read, **values}


def study(raters: int, clips: int, seed: int, missing: float = 0.0) -> pd.DataFrame:
    """Answers at random, some of them missing."""
    rng = np.random.default_rng(seed)
    rows = []
    for rater, clip in product(range(raters), range(clips)):
        if rng.random() >= missing:
            a, b = rng.choice(LABELS, 2)
            preferred = rng.choice(["a", "b", "b", "tie"])
            more = {"judge_a:grammar": LABELS[clip % 4], "judge_b:grammar": LABELS[0], "left": rng.choice(["a", "b"])}
            rows.append(answer(f"R{rater}", str(clip), conveyed_a=a, conveyed_b=b, preferred=preferred, **more))
    return pd.DataFrame(rows)


def table_of(frame: pd.DataFrame) -> np.ndarray[Any, Any]:
    """(explanations, raters), labels by number, NaN where nothing was read: a loop over what `analyse` pivots."""
    rows, raters = sorted({(i, arm) for i in frame["id"] for arm in "ab"}), sorted(set(frame["rater"]))
    made = np.full((len(rows), len(raters)), np.nan)
    for _, one in frame.iterrows():
        for arm in "ab":
            made[rows.index((one["id"], arm)), raters.index(one["rater"])] = LABELS.index(one[f"conveyed_{arm}"])
    return made


def test_shares_by_hand() -> None:
    frame = pd.DataFrame(
        [
            answer("R1", "0", preferred="b", left="b"),
            answer("R1", "1", preferred="a", left="a", conveyed_a="sad", conveyed_b="unclear"),
            answer("R2", "0", preferred="b", left="a", conveyed_a="unclear", conveyed_b="angry"),
            answer("R2", "1", preferred="tie", left="a", conveyed_a="sad", conveyed_b="happy"),
        ]
    )
    found = analyse(frame, draws=50)
    assert found.preference.value == 2.5 / 4
    assert found.left.value == (1 + 1 + 0 + 0.5) / 4
    a, b = found.of_arms["a"], found.of_arms["b"]
    assert [a[key].value for key in ("eea", "epc", "fcr", "unclear")] == [0.25, 0.5, 0.0, 0.25]
    assert [b[key].value for key in ("eea", "epc", "fcr", "unclear")] == [0.5, 0.5, 0.5, 0.25]
    assert found.differences["fcr"].value == 0.5
    assert (found.by_clip.a, found.by_clip.b, found.by_clip.even, found.by_clip.p) == (1, 1, 0, 1.0)
    assert (found.by_answer.a, found.by_answer.b, found.by_answer.even) == (1, 2, 1)
    assert (found.raters, found.clips, found.answers, found.seconds) == (2, 2, 4, 10.0)


@pytest.mark.parametrize(("a", "b"), [(0, 5), (3, 9), (10, 10), (1, 0)])
def test_signs_are_scipys_binomial_test(a: int, b: int) -> None:
    rows = [answer("R1", str(clip), preferred="a" if clip < a else "b") for clip in range(a + b)]
    found = analyse(pd.DataFrame(rows), draws=5)
    assert found.by_clip.p == pytest.approx(binomtest(b, a + b).pvalue)
    assert found.by_answer.p == pytest.approx(binomtest(b, a + b).pvalue)


def test_intervals_draw_clips_and_raters() -> None:
    """All answers of a rater alike: with clips alone the interval would be far too narrow."""
    rows = [
        answer(f"R{rater}", str(clip), preferred="b" if rater < 6 else "a") for rater in range(10) for clip in range(40)
    ]
    found = analyse(pd.DataFrame(rows), draws=2_000).preference
    # ten raters drawn, each 0 or 1 with p = 0.6: the standard deviation of their mean is sqrt(0.24 / 10)
    assert found.high - found.low == pytest.approx(2 * 1.96 * math.sqrt(0.024), rel=0.15)


def test_the_bootstrap_is_the_loop_that_draws_clips_and_raters() -> None:
    frame = study(raters=6, clips=12, seed=3)
    found = analyse(frame, draws=3_000)
    rng = np.random.default_rng(7)
    value = {(r["rater"], r["id"]): {"a": 0.0, "tie": 0.5, "b": 1.0}[r["preferred"]] for _, r in frame.iterrows()}
    raters, clips = sorted(set(frame["rater"])), sorted(set(frame["id"]))
    drawn = []
    for _ in range(1_500):
        some, which = rng.choice(raters, len(raters)), rng.choice(clips, len(clips))
        drawn.append(np.mean([value[rater, clip] for rater in some for clip in which]))
    assert (found.preference.low, found.preference.high) == pytest.approx(np.percentile(drawn, (2.5, 97.5)), abs=0.02)


def test_clips_of_one_source_are_drawn_together() -> None:
    rows = [
        answer(f"R{rater}", str(clip), source=f"film{clip // 10}", preferred="b" if clip < 10 else "a")
        for rater in range(3)
        for clip in range(20)
    ]
    together, apart = (
        analyse(pd.DataFrame(rows).assign(source=s), draws=500).preference
        for s in ([row["source"] for row in rows], "")
    )
    assert (together.low, together.high) == (0.0, 1.0)  # two films
    assert 0.2 < apart.low < apart.high < 0.8


def test_agreement_is_that_of_statsmodels_and_krippendorff() -> None:
    frame = study(raters=5, clips=15, seed=0)
    _, emotions = analyse(frame, draws=20).agreement
    table = table_of(frame)
    equal, kappa, alpha = (one.value for one in emotions.measures)
    assert kappa == pytest.approx(fleiss_kappa(aggregate_raters(table.astype(int))[0]))
    assert alpha == pytest.approx(krippendorff.alpha(table.T, level_of_measurement="nominal"))
    pairs = [(row[i] == row[j]) for row in table for i in range(5) for j in range(i)]
    assert equal == pytest.approx(np.mean(pairs))
    assert (emotions.each, emotions.rows, emotions.of) == (5, 30, 30)


def test_agreement_with_missing_answers() -> None:
    """α takes what is there; Fleiss' κ the rows with as many raters as most have."""
    frame = study(raters=8, clips=30, seed=1, missing=0.6)
    _, emotions = analyse(frame, draws=20).agreement
    table = table_of(frame)
    assert emotions.measures[2].value == pytest.approx(krippendorff.alpha(table.T, level_of_measurement="nominal"))
    count = (~np.isnan(table)).sum(axis=1)
    full = np.array([row[~np.isnan(row)] for row in table[count == emotions.each]]).astype(int)
    assert emotions.rows == len(full)
    assert emotions.measures[1].value == pytest.approx(fleiss_kappa(aggregate_raters(full)[0]))


def test_one_rater_agrees_with_nobody() -> None:
    found = analyse(study(raters=1, clips=4, seed=0), draws=10)
    assert [agreed.measures for agreed in found.agreement] == [(), ()]
    assert "nothing was answered by two raters" in report.markdown(found, "study")


def test_judges_are_held_to_the_majority() -> None:
    rows = []
    for clip, (reads, judge) in enumerate([("hhs", "happy"), ("hss", "happy"), ("hs", "happy"), ("uu", "")]):
        names = {"h": "happy", "s": "sad", "u": "unclear"}
        for rater, read in enumerate(reads):
            judged = {"judge_a:grammar": judge, "judge_b:grammar": "sad"}
            rows.append(answer(f"R{rater}", str(clip), conveyed_a=names[read], conveyed_b="sad", **judged))
    found = analyse(pd.DataFrame(rows), draws=20)
    equal = next(one for one in found.judges if one.name == "equal: raters and grammar")
    assert equal.value == pytest.approx((1 + 0 + 1 + 4) / 7)  # a: right, wrong, split, both nothing; b: always
    assert found.undecided == 1


def test_a_judge_of_one_arm_alone_is_left_out() -> None:
    frame = study(raters=2, clips=3, seed=0).drop(columns="judge_b:grammar")
    assert not [name for name in of_explanations(frame).columns if str(name).startswith("judge:")]
    assert analyse(frame, draws=5).judges == ()


def test_labels_of_two_spaces_never_meet() -> None:
    rows = [answer("R1", "0", conveyed_a="fear"), answer("R2", "0", conveyed_a="fear")]
    rows += [answer(f"R{r}", "1", label_space="mafw", label="fear", conveyed_a="fear") for r in (1, 2)]
    assert of_explanations(pd.DataFrame(rows))["read"].nunique() == 4  # dfew and mafw: fear of A, happy of B


def test_who_fails_attention_checks_is_left_out() -> None:
    rows = [answer(rater, "0", preferred="a" if rater == "R2" else "b") for rater in ("R1", "R2", "R3")]
    checks = {"R1": ["yes", "yes"], "R2": ["no", "no"], "R3": ["no", "yes"]}
    rows += [
        answer(rater, f"check{i}", passed=did, preferred="a")
        for rater, all_ in checks.items()
        for i, did in enumerate(all_)
    ]
    frame = pd.DataFrame(rows)
    assert [(one.rater, one.failed, one.checks) for one in failed_checks(frame)] == [("R2", 2, 2), ("R3", 1, 2)]
    found = analyse(frame, draws=10)
    assert ([one.rater for one in found.excluded], found.answers, found.preference.value) == (["R2"], 2, 1.0)
    assert analyse(frame, max_failed=0.0, draws=10).raters == 1
    assert analyse(frame, max_failed=1.0, draws=10).raters == 3
    assert "R2 (2 of 2), R3 (1 of 2)" in report.attention(found)


def test_no_answer_left_is_an_error() -> None:
    rows = [answer("R1", "0"), answer("R1", "1", passed="no")]
    with pytest.raises(ValueError, match=r"no answers are left: 1 raters failed.*--max-failed 1"):
        analyse(pd.DataFrame(rows))


def test_every_output_says_what_was_found() -> None:
    found = analyse(study(raters=4, clips=8, seed=2), draws=50)
    page = report.markdown(found, "study analyse x")
    assert "A is base, B is ours" in page.replace("\n", " ")
    assert "Fleiss' κ" in page
    assert "## Limits" in page
    data = json.loads(json.dumps(report.to_json(found, "study analyse x"), allow_nan=False))
    assert data["preference"]["value"] == found.preference.value
    assert len(report.tables(found)) == 4


def test_a_terminal_of_80_columns_shows_every_name_and_number() -> None:
    frame = study(raters=4, clips=8, seed=2).assign(arm_a="grpo/accuracy-seed0", arm_b="grpo/explanation-seed0")
    console = Console(width=80, file=io.StringIO(), highlight=False)
    for table in report.tables(analyse(frame, draws=50)):
        console.print(table)
    shown = console.file.getvalue()  # type: ignore[attr-defined]

    assert not re.search(r"…\s", shown)  # nothing is cut off; within an interval … stands for "to"
    assert all(name in shown for name in ("A: grpo/accuracy-seed0", "B: grpo/explanation-seed0", "B − A"))
