"""From samples and probes to what a person wants to know: counts, histograms, leaks, problems and warnings."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from erv_lightning.data.check.probe import Probe
from erv_lightning.data.clips import ClipRules
from erv_lightning.data.readers import MixedClips
from erv_lightning.data.sample import ClipSource, Sample
from erv_lightning.labels import get_label_space

BINS = 10  # of a histogram
NAMED = 20  # samples that a problem lists

Samples = Mapping[str, Sequence[Sample]]  # split → its samples
Probes = Mapping[str, Sequence[Probe]]  # split → a probe for each of its samples, or of none


def check(
    source: ClipSource, parts: Mapping[str, str], samples: Samples, probes: Probes, rules: ClipRules
) -> dict[str, Any]:
    """Everything that `data check` tells, as plain JSON types; docs/data.md has the keys.

    Args:
        source: of the samples.
        parts: ``train``, ``val``, ``test`` → the split that serves as it.
        samples: of each split.
        probes: of their clips; fewer than samples where not all were looked at, and then the first ones.
        rules: how the run would read them.
    """
    report: dict[str, Any] = {"splits": {}, "published": _published(source, parts, samples)}
    problems: list[str] = []
    warnings = [
        f"{row['dataset']}, {' and '.join(row['splits'])}: {row['found']} clips, {row['published']} published"
        for row in report["published"]
        if row["found"] != row["published"]
    ]
    warnings += [
        f"{row['dataset']}, {' and '.join(row['splits'])}: {count['found']} {label}, {count['published']} published"
        for row in report["published"]
        for label, count in row["labels"].items()
        if count["found"] != count["published"]
    ]
    for split, those in samples.items():
        seen = list(zip(those, probes.get(split, ()), strict=False))
        report["splits"][split] = {"datasets": _counts(those), "clips": _clips(seen, rules)}
        more_problems, more_warnings = _judged(split, those, report["splits"][split]["clips"], rules)
        problems += more_problems
        warnings += more_warnings
    report["duplicates"] = duplicates(samples, probes)
    within: list[str] = []
    for leak in report["duplicates"]:
        line = f"the same clip by {leak['by']}: {', '.join(leak['samples'][:NAMED])}"
        across = len(set(leak["splits"])) > 1 and parts.get("train") in leak["splits"]
        (problems if across else within).append(line)
    warnings += within[:NAMED]
    if len(within) > NAMED:
        warnings.append(f"and {len(within) - NAMED} more clips that stand in several places")
    return {**report, "problems": problems, "warnings": warnings}


def _counts(samples: Sequence[Sample]) -> dict[str, Any]:
    """Samples of each data set, and of each of its labels: those without one too."""
    found: dict[str, Counter[str]] = defaultdict(Counter)
    spaces = {sample.dataset: sample.label_space for sample in samples}
    for sample in samples:
        found[sample.dataset][sample.label] += 1
    return {
        dataset: {
            "samples": sum(labels.values()),
            "label_space": spaces[dataset],
            "labels": {name: labels[name] for name in get_label_space(spaces[dataset]).names},
            "explanations": sum(bool(sample.explanation) for sample in samples if sample.dataset == dataset),
            "labelled_sentences": sum(
                labels is not None for one in samples if one.dataset == dataset for labels in one.sentence_labels
            ),
        }
        for dataset, labels in found.items()
    }


def _published(source: ClipSource, parts: Mapping[str, str], samples: Samples) -> list[dict[str, Any]]:
    """For each data set whose authors say: what they report, beside what is here."""
    sources = source.sources if isinstance(source, MixedClips) else [source]
    train, val, test = parts["train"], parts["val"], parts["test"]
    rows = []
    for one in sources:
        told: set[str] = set()
        for splits in ((train, val), (train,), (val,), (test,)):
            published = None if told & set(splits) else one.published(splits)
            if published is None or not set(splits) <= set(samples):
                continue
            told |= set(splits)
            own = [sample for split in dict.fromkeys(splits) for sample in one.samples(split)]
            labels = Counter(sample.label for sample in own)
            rows.append(
                {
                    "dataset": own[0].dataset if own else type(one).__name__,
                    "splits": list(dict.fromkeys(splits)),
                    "found": len(own),
                    "published": published.clips,
                    "labels": {
                        name: {"found": labels[name], "published": count} for name, count in published.per_label.items()
                    },
                }
            )
    return rows


def _clips(seen: Sequence[tuple[Sample, Probe]], rules: ClipRules) -> dict[str, Any]:
    good = [probe for _, probe in seen if not probe.error]
    silent = [sample for sample, probe in seen if not (probe.error or probe.has_audio)] if rules.media.audio else []
    most = rules.max_prompt_tokens
    return {
        "checked": len(seen),
        "missing": [_named(sample) for sample, probe in seen if probe.missing],
        "unreadable": [
            {**_named(sample), "reason": probe.error} for sample, probe in seen if probe.error and not probe.missing
        ],
        "without_audio": [_named(sample) for sample in silent],
        "over_budget": [
            {**_named(sample), "prompt_tokens": probe.prompt_tokens}
            for sample, probe in seen
            if most is not None and (probe.prompt_tokens or 0) > most
        ],
        "resolution": dict(Counter(f"{probe.size[1]}x{probe.size[0]}" for probe in good).most_common()),
        "duration": histogram([probe.duration for probe in good]),
        "prompt_tokens": histogram([one.prompt_tokens for one in good if one.prompt_tokens is not None]),
        "media_tokens": histogram([one.media_tokens for one in good if one.media_tokens is not None]),
    }


def _named(sample: Sample) -> dict[str, str]:
    return {"id": sample.id, "dataset": sample.dataset, "clip": sample.clip, "record": sample.record}


def histogram(values: Sequence[float]) -> dict[str, Any] | None:
    """Smallest, median, largest, sum, and counts between `edges`; None of nothing."""
    if not values:
        return None
    counts, edges = np.histogram(values, bins=BINS if max(values) > min(values) else 1)
    return {
        "min": float(min(values)),
        "median": float(np.median(values)),
        "max": float(max(values)),
        "total": float(sum(values)),
        "edges": [round(float(edge), 3) for edge in edges],
        "counts": counts.tolist(),
    }


def _judged(
    split: str, samples: Sequence[Sample], clips: Mapping[str, Any], rules: ClipRules
) -> tuple[list[str], list[str]]:
    """What would break a run, and what would not."""
    problems: list[str] = []
    warnings: list[str] = []
    if not samples:
        problems.append(f"{split}: no samples")
    bad = {"missing": "missing", "unreadable": "cannot be used", "over_budget": "over data.max_prompt_tokens"}
    for key, meaning in bad.items():
        if clips[key]:
            names = ", ".join(one["record"] or one["id"] for one in clips[key][:NAMED])
            more = f" and {len(clips[key]) - NAMED} more" if len(clips[key]) > NAMED else ""
            line = f"{split}: {len(clips[key])} clips {meaning}: {names}{more}"
            (problems if rules.on_bad_clip == "error" else warnings).append(line)
    if clips["checked"] and sum(len(clips[key]) for key in bad) >= clips["checked"] and rules.on_bad_clip == "skip":
        problems.append(f"{split}: no clip can be used")
    if clips["without_audio"]:
        warnings.append(f"{split}: {len(clips['without_audio'])} clips without audio are heard as silence")
    for dataset, counts in _counts(samples).items():
        absent = [name for name, count in counts["labels"].items() if not count]
        if absent:
            warnings.append(f"{split}: no clip of {dataset} is {', '.join(absent)}")
    return problems, warnings


def duplicates(samples: Samples, probes: Probes) -> list[dict[str, Any]]:
    """Clips that stand in several places: by path, and by content where the paths differ."""
    paths: dict[str, list[tuple[str, Sample]]] = defaultdict(list)
    contents: dict[str, list[tuple[str, Sample]]] = defaultdict(list)
    for split, those in samples.items():
        for sample in those:
            paths[sample.clip].append((split, sample))
        for sample, probe in zip(those, probes.get(split, ()), strict=False):
            if probe.digest:
                contents[probe.digest].append((split, sample))
    found = [("path", members) for members in paths.values() if len(members) > 1]
    found += [("content", those) for those in contents.values() if len({sample.clip for _, sample in those}) > 1]
    return [
        {
            "by": how,
            "splits": sorted({split for split, _ in members}),
            "samples": [f"{split}/{sample.dataset}/{sample.id}" for split, sample in members],
        }
        for how, members in found
    ]
