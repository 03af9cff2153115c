"""What `verifier build-data` shows on a terminal: counts, agreement, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.table import Table

from erv_lightning.report.cells import number, table


def tables(numbers: Mapping[str, Any]) -> Iterator[Table]:
    """Sentences by label and split; teachers beside each other, beside given labels, and beside the clips' labels."""
    splits = numbers["splits"]
    counts = table("sentences by label", "label", [f"  {title}" for title in _titles(splits)])
    columns = [
        column for part, of in splits.items() for column in ([of["before_balancing"]] if part == "train" else []) + [of]
    ]
    for name in numbers["labels"]:
        counts.add_row(name, *(f"{column['labels'][name]:,}" for column in columns))
    counts.add_section()
    counts.add_row("sentences", *(f"{column['sentences']:,}" for column in columns))
    yield counts
    agreement = table("agreement", "", ["sentences", "  equal sets", "  Jaccard", "  mean κ"])
    first = numbers["teachers"][0]["name"]
    for one in numbers["agreement"]:
        agreement.add_row(f"{first} and {one['with']}", *_measures(one))
    for one in numbers["teachers"]:
        if one["sentence_labels"] and one["name"] != "labels":
            agreement.add_row(f"{one['name']} and the samples' own labels", *_measures(one["sentence_labels"]))
    if agreement.row_count:
        yield agreement


def facts(numbers: Mapping[str, Any]) -> Iterator[str]:
    """What became of the sentences, labels that a split lacks, and how teachers stand to the clips' labels."""
    repeated = numbers["sentences"] - numbers["distinct"]
    yield (
        f"{numbers['sentences']:,} sentences of {numbers['clips']:,} clips, {repeated:,} of them repetitions; "
        f"{numbers['asked']:,} labelled, {numbers['without_label']:,} left out without a label"
        + (f", {numbers['conflicts']:,} with different labels at different clips" if numbers["conflicts"] else "")
    )
    for part, of in numbers["splits"].items():
        if missing := [name for name, count in of["labels"].items() if not count]:
            yield f"{part} has no sentence that conveys {', '.join(missing)}"
    for one in numbers["teachers"]:
        clips = one["clip_label"]
        if clips["sentences"]:
            yield f"{one['name']}: {clips['share']:.1%} of {clips['sentences']:,} sentences hold their clip's label"


def _titles(splits: Mapping[str, Any]) -> list[str]:
    return [title for part in splits for title in (["train before", "train"] if part == "train" else [part])]


def _measures(of: Mapping[str, Any]) -> list[str]:
    defined = [kappa for kappa in of["kappa"].values() if kappa == kappa]  # nan is not
    mean = sum(defined) / len(defined) if defined else float("nan")
    return [f"{of['sentences']:,}", number(of["exact"]), number(of["jaccard"]), number(mean)]
