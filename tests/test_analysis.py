"""The comparison's numbers: against literals by hand, a brute-force loop, scipy, and simulation."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.metrics import f1_score

from erv_lightning.analysis import (
    bootstrap,
    differences,
    how_drawn,
    load_arms,
    load_curves,
    load_predictions,
)
from erv_lightning.metrics import functional
from erv_lightning.results import choose_judges, split_seed
from erv_lightning.tallies import ids, tallies

Row = tuple[int, int, int]  # label, answer, judge's reading


def write_run(
    run: Path,
    rows: Sequence[Row],
    clips: Sequence[str] | None = None,
    space: str = "dfew",
    sources: Sequence[str] | None = None,
) -> Path:
    run.mkdir(parents=True)
    lines = [
        {
            "id": f"{i:05d}",
            "dataset": space,
            "clip": clips[i] if clips else f"clips/{i}.mp4",
            "source": sources[i] if sources else "",
            "label_space": space,
            "label_id": label,
            "answer_id": answer,
            "judges": {"grammar": judged},
        }
        for i, (label, answer, judged) in enumerate(rows)
    ]
    (run / "predictions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return run


def random_rows(rng: np.random.Generator, n: int) -> list[Row]:
    """Labels of four of the seven classes; answers and readings include −1."""
    labels = rng.integers(4, size=n)
    answers = np.where(rng.random(n) < 0.6, labels, rng.integers(-1, 7, size=n))
    judged = np.where(rng.random(n) < 0.5, labels, rng.integers(-1, 7, size=n))
    return list(zip(labels.tolist(), answers.tolist(), judged.tolist(), strict=True))


def by_loop(rows: Sequence[Row]) -> dict[str, float]:
    """The definitions, clip by clip."""
    same: Callable[[int, int], bool] = lambda a, b: a == b and a != -1  # noqa: E731
    n = len(rows)
    right = sum(same(a, y) for y, a, _ in rows)
    faithful = sum(same(a, y) and same(e, y) for y, a, e in rows)
    recalls = []
    said = sorted({y for y, _, _ in rows} | {a for _, a, _ in rows} - {-1})
    for label in sorted({y for y, _, _ in rows} - {-1}):
        of_label = [a for y, a, _ in rows if y == label]
        recalls.append(sum(a == label for a in of_label) / len(of_label))
    return {
        "war": right / n,
        "uar": sum(recalls) / len(recalls),
        "f1": f1_score([y for y, _, _ in rows], [a for _, a, _ in rows], labels=said, average="macro", zero_division=0),
        "unparsable": sum(a == -1 for _, a, _ in rows) / n,
        "eea": sum(same(e, y) for y, _, e in rows) / n,
        "epc": sum(same(e, a) for _, a, e in rows) / n,
        "fcr": faithful / n,
        "fcr_given_correct": faithful / right if right else float("nan"),
    }


# label, answer, reading: all right; right, read otherwise; wrong and consistent; no answer and no reading;
# no answer, right reading; right answer, nothing readable
BY_HAND = [(0, 0, 0), (0, 0, 1), (0, 1, 1), (1, -1, -1), (1, -1, 1), (1, 1, -1)]


def test_metrics_equal_the_numbers_worked_out_by_hand(tmp_path):
    arms = load_arms([write_run(tmp_path / "sft" / "seed0", BY_HAND)])
    values = {key: one.value for key, one in bootstrap(arms, "grammar", draws=10)["sft"].estimates().items()}
    assert values == pytest.approx(
        {
            "war": 3 / 6,
            "uar": (2 / 3 + 1 / 3) / 2,
            "f1": (2 * 2 / (3 + 2) + 2 * 1 / (3 + 2)) / 2,
            "unparsable": 2 / 6,
            "eea": 2 / 6,
            "epc": 2 / 6,
            "fcr": 1 / 6,
            "fcr_given_correct": 1 / 3,
        }
    )


@pytest.mark.parametrize("seed", range(5))
def test_metrics_equal_a_loop_over_clips(tmp_path, seed):
    rows = random_rows(np.random.default_rng(seed), 37)
    arms = load_arms([write_run(tmp_path / "sft" / "x", rows)])
    estimates = bootstrap(arms, "grammar", draws=10)["sft/x"].estimates()
    assert {key: one.value for key, one in estimates.items()} == pytest.approx(by_loop(rows))


def test_every_draw_equals_a_loop_over_the_resampled_clips(tmp_path):
    rows = random_rows(np.random.default_rng(3), 12)
    # one source of several labels: clips are then drawn whatever their class
    sources = ["a", "a", *"bcdefghijk"]
    rows[:2] = [(0, 0, 0), (1, 1, 0)]
    run = write_run(tmp_path / "sft" / "x", rows, sources=sources)
    sampling = bootstrap(load_arms([run]), "grammar", draws=50, seed=7)["sft/x"]
    drawn = np.random.default_rng(7).integers(11, size=(50, 11))
    for i, indices in enumerate([[j for s in draw for j in ([0, 1] if s == 0 else [s + 1])] for draw in drawn]):
        expected = by_loop([rows[j] for j in indices])
        assert {key: draws[i] for key, draws in sampling.draws.items()} == pytest.approx(expected, nan_ok=True)


def test_two_missing_values_do_not_agree(tmp_path):
    arms = load_arms([write_run(tmp_path / "sft" / "x", [(-1, -1, -1), (0, -1, -1)])])
    estimates = bootstrap(arms, "grammar", draws=10)["sft/x"].estimates()
    assert [estimates[key].value for key in ("war", "uar", "eea", "epc", "fcr")] == [0, 0, 0, 0, 0]
    assert np.isnan(estimates["fcr_given_correct"].value)
    assert np.isnan(estimates["fcr_given_correct"].low)


def test_the_interval_is_scipys_percentile_bootstrap(tmp_path):
    rows = random_rows(np.random.default_rng(1), 150)
    one = bootstrap(load_arms([write_run(tmp_path / "sft" / "x", rows)]), "grammar")["sft/x"].estimates()["war"]
    right = np.array([answer == label for label, answer, _ in rows])
    oracle = stats.bootstrap((right,), np.mean, method="percentile", rng=np.random.default_rng(5)).confidence_interval
    assert (one.low, one.high) == pytest.approx((oracle.low, oracle.high), abs=0.01)


def test_the_interval_covers_the_truth_about_95_times_in_100(tmp_path):
    covered = 0
    for i in range(200):
        rng = np.random.default_rng(i)
        right, faithful = rng.random(80) < 0.8, rng.random(80) < 0.75  # FCR = 0.8 · 0.75 = 0.6
        rows = [(0, int(not r), 0 if f else 1) for r, f in zip(right, faithful, strict=True)]
        arms = load_arms([write_run(tmp_path / str(i) / "x", rows)])
        one = bootstrap(arms, "grammar", draws=400, seed=i)[f"{i}/x"].estimates()["fcr"]
        covered += one.low <= 0.6 <= one.high
    assert 0.90 <= covered / 200 <= 0.985


def test_rows_of_one_clip_are_drawn_together(tmp_path):
    # twenty questions on each of two clips, one clip all right, one all wrong: a draw is 0, 1/2 or 1
    rows = [(0, i % 2, 0) for i in range(40)]
    clips = [f"clips/{i % 2}.mp4" for i in range(40)]
    sampling = bootstrap(load_arms([write_run(tmp_path / "sft" / "x", rows, clips)]), "grammar", draws=200)["sft/x"]
    assert set(sampling.draws["war"]) == {0.0, 0.5, 1.0}


def test_seeds_are_averaged_over_the_same_resampled_clips(tmp_path):
    rng = np.random.default_rng(0)
    labels = [row[0] for row in random_rows(rng, 30)]
    seeds = [[(y, a, e) for y, (_, a, e) in zip(labels, random_rows(rng, 30), strict=True)] for _ in range(3)]
    runs = [write_run(tmp_path / "grpo" / f"erv-seed{i}", rows) for i, rows in enumerate(seeds)]
    pooled = bootstrap(load_arms(runs), "grammar", draws=60)["grpo/erv"]
    single = [bootstrap(load_arms([run]), "grammar", draws=60)["grpo/erv"] for run in runs]
    estimates = pooled.estimates()
    for key in ("war", "uar", "eea", "epc", "fcr"):
        assert estimates[key].seeds == pytest.approx([by_loop(rows)[key] for rows in seeds])
        assert estimates[key].value == pytest.approx(np.mean(estimates[key].seeds))
        np.testing.assert_allclose(pooled.clip_draws[key], np.mean([one.draws[key] for one in single], axis=0))


def test_an_interval_over_seeds_and_clips_is_wider_than_over_clips(tmp_path):
    labels = [i % 7 for i in range(70)]
    chances = {"seed0": 0.3, "seed1": 0.6, "seed2": 0.9}  # seeds far apart, clips many
    runs = [
        write_run(
            tmp_path / "grpo" / f"erv-{seed}",
            [(y, y if np.random.default_rng(i).random() < chance else -1, y) for i, y in enumerate(labels)],
        )
        for seed, chance in chances.items()
    ]
    one = bootstrap(load_arms(runs), "grammar", draws=2000)["grpo/erv"].estimates()["war"]
    assert one.std == pytest.approx(np.std(one.seeds, ddof=1))
    assert one.high - one.low > 1.5 * (one.clips[1] - one.clips[0])
    assert min(one.seeds) - 0.1 < one.low < one.clips[0] < one.value < one.clips[1] < one.high < max(one.seeds) + 0.1
    alone = bootstrap(load_arms(runs[:1]), "grammar", draws=2000)["grpo/erv"].estimates()["war"]
    assert (alone.low, alone.high) == alone.clips
    assert np.isnan(alone.std)


def test_arms_of_the_same_seeds_draw_the_same_seeds(tmp_path):
    rng = np.random.default_rng(5)
    labels = [int(y) for y in rng.integers(7, size=70)]
    runs = []
    for seed, chance in (("seed0", 0.3), ("seed1", 0.8)):  # B is A with every tenth clip put right, seed by seed
        right = rng.random(70) < chance
        for arm, put_right in (("a", []), ("b", range(0, 70, 10))):
            rows = [(y, y if right[i] or i in put_right else -1, y) for i, y in enumerate(labels)]
            runs.append(write_run(tmp_path / "grpo" / f"{arm}-{seed}", rows))
    arms = load_arms(runs)
    samplings = bootstrap(arms, "grammar", draws=2000)
    one = differences(arms, [("grpo/b", "grpo/a")], "grammar", samplings)[0][2]["war"].estimate
    assert one.low >= 0  # clip by clip and seed by seed, B is never worse
    assert len(one.seeds) == 2


def test_clips_are_drawn_within_their_class_and_sources_where_they_are_named(tmp_path):
    rows = [(i % 2, i % 2, 0) for i in range(20)]
    plain = load_arms([write_run(tmp_path / "a" / "x", rows)])
    assert how_drawn(plain[0].predictions[0]) == "clips within their class"
    eea = bootstrap(plain, "grammar", draws=100)["a/x"].draws["eea"]
    assert set(eea) == {0.5}  # class 0 is right, class 1 wrong, and each draw has ten of both
    named = load_arms([write_run(tmp_path / "b" / "x", rows, sources=[f"actor {i // 5}" for i in range(20)])])
    assert how_drawn(named[0].predictions[0]) == "4 sources"
    assert len(set(bootstrap(named, "grammar", draws=100)["b/x"].draws["eea"])) > 1


def test_the_metrics_are_those_of_torchmetrics(tmp_path):
    rows = random_rows(np.random.default_rng(11), 60)
    label, answer, judged = (torch.tensor(column) for column in zip(*rows, strict=True))
    found = bootstrap(load_arms([write_run(tmp_path / "sft" / "x", rows)]), "grammar", draws=2)["sft/x"].estimates()
    expected = {
        "war": functional.weighted_average_recall(answer, label),
        "uar": functional.unweighted_average_recall(answer, label, 7),
        "eea": functional.explanation_emotion_accuracy(judged, label),
        "epc": functional.explanation_prediction_consistency(answer, judged),
        "fcr": functional.faithful_consistency_rate(answer, judged, label),
        "fcr_given_correct": functional.fcr_given_correct(answer, judged, label),
    }
    for key, value in expected.items():
        assert found[key].value == pytest.approx(float(value), abs=1e-6), key


def test_the_releases_ways_of_counting_are_chosen_one_by_one(tmp_path):
    rows = [(0, 0, 0), (0, -1, 0), (1, -1, 1), (1, 1, 1)]
    for space, uar in (("mafw", 1.0), ("dfew", 0.5)):  # the quirk is MAFW's
        frame = load_arms([write_run(tmp_path / space / "x", rows, space=space)])[0].predictions[0]
        values = {key: n.sum(0) / d.sum(0) for key, (n, d) in tallies(ids(frame, "grammar")).items()}
        assert (values["uar"][:2].mean(), values["eea"][0]) == (0.5, 1)
        quirk = tallies(ids(frame, "grammar", release_compatible=True))["uar"]
        assert (quirk[0].sum(0)[:2] / quirk[1].sum(0)[:2]).mean() == uar
        answered = tallies(ids(frame, "grammar", answered_only=True))["eea"]
        assert answered[0].sum() / answered[1].sum() == 0.5


def test_the_same_seed_gives_the_same_numbers_and_another_does_not(tmp_path):
    arms = load_arms([write_run(tmp_path / "sft" / "x", random_rows(np.random.default_rng(0), 40))])
    first, again, other = (bootstrap(arms, "grammar", draws=100, seed=seed)["sft/x"] for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.draws["fcr"], again.draws["fcr"])
    assert not np.array_equal(first.draws["fcr"], other.draws["fcr"])


def test_a_paired_difference_is_narrower_than_an_unpaired_one(tmp_path):
    rng = np.random.default_rng(2)
    rows = random_rows(rng, 100)
    better = [(y, y if rng.random() < 0.2 else a, e) for y, a, e in rows]
    arms = load_arms([write_run(tmp_path / "grpo" / "a", rows), write_run(tmp_path / "grpo" / "b", better)])
    samplings = bootstrap(arms, "grammar", draws=2000)
    one = differences(arms, [("grpo/b", "grpo/a")], "grammar", samplings)[0][2]["war"].estimate
    assert one.value == pytest.approx(by_loop(better)["war"] - by_loop(rows)["war"])
    assert one.low <= one.value <= one.high
    a, b = (samplings[name].estimates()["war"] for name in ("grpo/a", "grpo/b"))
    assert one.high - one.low < 0.7 * np.hypot(a.high - a.low, b.high - b.low)


def test_an_arm_minus_itself_is_exactly_zero(tmp_path):
    arms = load_arms([write_run(tmp_path / "sft" / "x", random_rows(np.random.default_rng(0), 40))])
    found = differences(arms, [("sft/x", "sft/x")], "grammar", bootstrap(arms, "grammar", draws=100))[0][2]
    for one in found.values():
        assert (one.estimate.value, one.estimate.low, one.estimate.high, one.estimate.seeds) == (0, 0, 0, (0,))
        assert (one.p, one.p_holm, one.significant) == (1, 1, False)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("seed0", ("", "seed0")),
        ("erv-seed12", ("erv", "seed12")),
        ("erv", ("erv", "")),
        ("a-seed1-b", ("a-seed1-b", "")),
    ],
)
def test_a_run_name_splits_into_arm_and_seed(name, expected):
    assert split_seed(name) == expected


def test_arms_keep_the_order_of_the_runs_and_their_stage(tmp_path):
    names = ["grpo/erv-seed1", "sft/seed0", "grpo/erv-seed0", "grpo/default"]
    arms = load_arms([write_run(tmp_path / name, BY_HAND) for name in names])
    assert [(arm.name, arm.seeds) for arm in arms] == [
        ("grpo/erv", ("seed1", "seed0")),
        ("sft", ("seed0",)),
        ("grpo/default", ("",)),
    ]


def test_the_same_name_in_two_trees_is_two_arms(tmp_path):
    runs = [write_run(tmp_path / tree / "grpo" / "erv-seed0", BY_HAND) for tree in ("old", "new")]
    assert [arm.name for arm in load_arms(runs)] == [str(tmp_path / tree / "grpo" / "erv") for tree in ("old", "new")]


def test_runs_on_different_clips_are_refused(tmp_path):
    runs = [write_run(tmp_path / "a" / "x", BY_HAND), write_run(tmp_path / "b" / "x", BY_HAND[:-1])]
    with pytest.raises(ValueError, match=r"different clips or labels: 1 differ, e\.g\. dfew/00005"):
        bootstrap(load_arms(runs), "grammar", draws=10)


def test_runs_with_different_labels_are_refused(tmp_path):
    runs = [
        write_run(tmp_path / "a" / "x", BY_HAND),
        write_run(tmp_path / "b" / "x", [(2, 0, 0), *BY_HAND[1:]]),
    ]
    with pytest.raises(ValueError, match=r"different clips or labels: 1 differ, e\.g\. dfew/00000"):
        bootstrap(load_arms(runs), "grammar", draws=10)


def test_ids_of_two_label_spaces_never_meet_and_a_data_set_can_be_chosen(tmp_path):
    run = write_run(tmp_path / "sft" / "x", BY_HAND)
    other = write_run(tmp_path / "other", [(10, 10, 10)], space="mafw")
    with (run / "predictions.jsonl").open("a") as file:
        file.write((other / "predictions.jsonl").read_text())
    both = bootstrap(load_arms([run]), "grammar", draws=10)["sft/x"].estimates()
    assert both["war"].value == pytest.approx((3 + 1) / 7)
    assert both["uar"].value == pytest.approx((2 / 3 + 1 / 3 + 1) / 3)  # the classes of both spaces
    assert bootstrap(load_arms([run], dataset="mafw"), "grammar", draws=10)["sft/x"].estimates()["fcr"].value == 1
    with pytest.raises(ValueError, match="no clip of data set 'mer', only of dfew, mafw"):
        load_predictions(run, dataset="mer")


def test_missing_predictions_are_named_with_the_command_that_makes_them(tmp_path):
    run = tmp_path / "grpo" / "erv-seed0"
    with pytest.raises(FileNotFoundError, match="no run folder"):
        load_predictions(run)
    run.mkdir(parents=True)
    command = r"python -m erv_lightning test -c configs/grpo\.yaml --name erv-seed0"
    with pytest.raises(FileNotFoundError, match=rf"predictions\.jsonl does not exist; make it with: {command}"):
        load_predictions(run)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "not a JSON object"),
        ("[1]", "not a JSON object, but list"),
        ('{"id": "a"}', "no dataset, clip, label_space, label_id, answer_id"),
        ('{"label_id": 7}', "label_id is 7, allowed is -1 to 6 in dfew"),
        ('{"answer_id": -2}', "answer_id is -2"),
        ('{"answer_id": null}', "answer_id is None"),
        ('{"judges": {"grammar": true}}', "grammar is True"),
        ('{"judges": [1]}', "judges is not an object"),
        ('{"label_space": "klingon"}', "klingon"),
        ('{"id": "00000"}', "'00000' was already predicted"),
    ],
)
def test_a_malformed_line_is_named_by_its_number(tmp_path, line, message):
    path = write_run(tmp_path / "sft" / "x", BY_HAND[:2]) / "predictions.jsonl"
    good = path.read_text()
    if message.startswith(("not", "no ")):
        bad = line
    else:
        bad = json.dumps({**json.loads(good.splitlines()[0]), "id": "new", **json.loads(line)})
    path.write_text(f"{good}\n{bad}\n")  # line 3 is empty, which is no fault
    with pytest.raises(ValueError, match=rf"predictions\.jsonl:4: .*{message}"):
        load_predictions(tmp_path / "sft" / "x")


def test_all_judges_in_common_count_unless_some_are_named(tmp_path):
    run = write_run(tmp_path / "sft" / "x", BY_HAND)
    one = load_arms([run])
    assert choose_judges(one) == ["grammar"]
    path = run / "predictions.jsonl"
    path.write_text(path.read_text().replace('"judges": {', '"judges": {"second": 0, '))
    arms = load_arms([run])
    assert choose_judges(arms) == ["second", "grammar"]
    assert choose_judges([*arms, *one]) == ["grammar"]
    assert choose_judges(arms, ["grammar"]) == ["grammar"]
    with pytest.raises(ValueError, match=r"no judge 'third' on every line; it has second, grammar"):
        choose_judges(arms, ["third"])
    path.write_text(path.read_text().replace('"grammar"', '"another"').replace('"second"', '"yet another"'))
    with pytest.raises(ValueError, match="no judge in common: let one read them all"):
        choose_judges([*load_arms([run]), *one])


def test_curves_leave_out_empty_cells_and_keep_the_last_of_two_values(tmp_path):
    (tmp_path / "metrics.csv").write_text("step,epoch,val/fcr,train/loss\n0,0,0.1,\n1,0,,2.5\n5,0,0.4,\n5,0,0.5,\n")
    curves = load_curves(tmp_path)
    fcr = curves[curves["metric"] == "val/fcr"]
    assert fcr[["step", "value"]].to_numpy().tolist() == [[0, 0.1], [5, 0.5]]
    assert curves[curves["metric"] == "train/loss"]["value"].tolist() == [2.5]


def test_unusable_curves_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"metrics\.csv does not exist"):
        load_curves(tmp_path)
    (tmp_path / "metrics.csv").write_text("")
    with pytest.raises(ValueError, match=r"metrics\.csv"):
        load_curves(tmp_path)
    (tmp_path / "metrics.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="no column step"):
        load_curves(tmp_path)
