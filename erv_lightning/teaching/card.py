"""The card of a data set of sentences: what is in it, who labelled it, and what it is not good for."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from erv_lightning.report.cells import grid, number

_SECRET = re.compile(r"(^|_)(api_?key|token|password|secret)$")
_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
_HUB_SPLITS = {"train": "train", "val": "validation", "test": "test"}
_FIELDS = (
    ("id", "`<data set>/<clip>/<n>`: the n-th sentence of the clip's explanations"),
    ("text", "the sentence, cut as the reward cuts it (`erv_lightning.text.split_sentences`)"),
    ("labels", "the emotions that it conveys, the surest first"),
    ("probs", "how likely the teacher finds each label, where it tells"),
    ("label_space", "which labels there are"),
    ("dataset`, `clip`, `source", "where the sentence was first found"),
    ("clip_label", "the clip's own emotion, which a sentence need not convey"),
)


def card(numbers: Mapping[str, Any], command: str, folder: str) -> str:
    """The card as Markdown, with Hugging Face's front matter.

    Args:
        numbers: of `build.Built`.
        command: that made it.
        folder: where it lies, for the command that trains on it.
    """
    teachers = numbers["teachers"]
    sections = [
        _front_matter(numbers),
        f"# Sentences of explanations, labelled with the emotions of `{numbers['label_space']}`",
        "Single sentences from explanations of clips, each with the emotions that it conveys: what the verifier of "
        "[arXiv 2510.23506](https://arxiv.org/abs/2510.23506) learns from. Made with `erv_lightning` by",
        f"```bash\n{command}\n```",
        f"## Use\n\n```bash\n{_fit(folder)}\n```",
        "One sentence a row:\n\n" + "\n".join(f"- `{name}`: {what}" for name, what in _FIELDS),
        f"## Sentences\n\n{_sentences(numbers)}",
        _splits(numbers),
        f"## Splits and balance\n\n{_made(numbers)}",
        f"## Teachers\n\n{_teachers(teachers)}",
        f"## Agreement\n\n{_agreement(numbers)}",
        f"## Limits\n\n{_limits(numbers)}",
    ]
    return "\n\n".join(sections) + "\n"


def how_to_train(folder: str) -> str:
    """The command that trains a verifier on the data set."""
    return " ".join(_fit(folder).replace("\\\n", "").split())


def _fit(folder: str) -> str:
    return (
        "python -m erv_lightning fit -c configs/verifier.yaml -c configs/data/sentences.yaml \\\n"
        f"  --data.source.init_args.root {folder}"
    )


def _front_matter(numbers: Mapping[str, Any]) -> str:
    size = sum(part["sentences"] for part in numbers["splits"].values())
    files = [{"split": _HUB_SPLITS[part], "path": f"{part}.jsonl"} for part in numbers["splits"]]
    head = {
        "pretty_name": f"Sentences of explanations ({numbers['label_space']})",
        "task_categories": ["text-classification"],
        "task_ids": ["multi-label-classification"],
        "tags": ["emotion-recognition", "erv", "erv_lightning"],
        "size_categories": [next((name for most, name in _SIZES if size < most), "n>1M")],
        "configs": [{"config_name": "default", "data_files": files}],
    }
    note = "# license: yours to choose, within what the data sets and the teacher allow"
    return f"---\n{yaml.safe_dump(head, sort_keys=False, allow_unicode=True)}{note}\n---"


# -- sections ------------------------------------------------------------------------------------------------------


def _sentences(numbers: Mapping[str, Any]) -> str:
    of = ", ".join(f"{count:,} of {name}" for name, count in numbers["datasets"].items())
    lines = [
        f"{numbers['clips']:,} clips have {numbers['sentences']:,} sentences ({of}).",
        f"{numbers['distinct']:,} of them are different; {numbers['sentences'] - numbers['distinct']:,} repeat one of "
        "these but for case and white space. Each is labelled once and stands once, at the first clip that has it.",
    ]
    if numbers["asked"] < numbers["distinct"]:
        lines.append(f"Only the first {numbers['asked']:,} were labelled: `--limit`.")
    first = numbers["teachers"][0]["name"]
    if numbers["without_label"]:
        lines.append(f"{numbers['without_label']:,} are left out: to `{first}` they convey no label of the space.")
    if numbers["conflicts"]:
        lines.append(
            f"{numbers['conflicts']:,} came with different labels at different clips; the most frequent ones count."
        )
    return " ".join(lines)


def _splits(numbers: Mapping[str, Any]) -> str:
    """A row a label, and for each split how many sentences hold it; those of train also before balancing."""
    splits = numbers["splits"]
    titles = [
        title for part in splits for title in (["train before balancing", "train"] if part == "train" else [part])
    ]
    columns = [
        column for part, of in splits.items() for column in ([of["before_balancing"], of] if part == "train" else [of])
    ]
    rows = [[name, *(f"{column['labels'][name]:,}" for column in columns)] for name in numbers["labels"]]
    rows.append(["**sentences**", *(f"{column['sentences']:,}" for column in columns)])
    blank = [""] if "train" in splits else []
    for key, spec in (("clips", ",d"), ("sentences_per_clip", ".2f")):
        rows.append([key.replace("_", " "), *blank, *(format(of[key], spec) for of in splits.values())])
    return grid("label", titles, rows)


def _made(numbers: Mapping[str, Any]) -> str:
    shares = ", ".join(f"{name} {share:g}" for name, share in numbers["fractions"].items())
    balance = (
        f"In train at most {numbers['per_label']:,} sentences hold each label: the rarest label was filled first, with "
        "sentences drawn by chance, and a sentence was taken if all its labels had room. Validation and test keep "
        "their natural counts, so that what is measured on them, and the calibration, is true of explanations as they "
        "are."
    )
    return (
        "Whole clips, and whole sources (a speaker, a film) where the data name them, went into one split by a hash of "
        f"their name and the seed {numbers['seed']} ({shares}): no clip and no sentence is in two splits, and adding "
        f"data moves no clip. {balance if numbers['per_label'] else 'Nothing was balanced.'}"
    )


def _teachers(teachers: Sequence[Mapping[str, Any]]) -> str:
    told = []
    for place, one in enumerate(teachers):
        role = "its labels are the data set's" if not place else "only compared"
        settings = yaml.safe_dump(_published(one["settings"]), sort_keys=False, allow_unicode=True, width=10**6)
        told.append(f"`{one['name']}` ({role}):\n\n```yaml\n{settings}```")
    told.append(
        "`labels/` keeps what judges said of each sentence, so that none is asked again; training does not read it."
    )
    return "\n\n".join(told)


def _agreement(numbers: Mapping[str, Any]) -> str:
    """With other teachers, with labels that were there already, and with the clips' own labels."""
    teachers, first = numbers["teachers"], numbers["teachers"][0]
    parts = [
        grid(
            "teacher",
            ["without a label", "several labels", "hold the clip's label", "of sentences"],
            [_with_clips(one) for one in teachers],
        ),
        "A sentence need not convey its clip's emotion: this share tells teachers apart, and 1 is not its aim.",
    ]
    pairs = [(f"{first['name']} and {one['with']}", one) for one in numbers["agreement"]]
    pairs += [
        (f"{one['name']} and the samples' own labels", one["sentence_labels"])
        for one in teachers
        if one["sentence_labels"] and one["name"] != "labels"
    ]
    if pairs:
        head = ["sentences", "equal sets", "Jaccard", *(f"κ {name}" for name in numbers["labels"])]
        rows = [[who, f"{of['sentences']:,}", *map(number, _measures(of, numbers["labels"]))] for who, of in pairs]
        parts += [grid("who", head, rows), "Equal label sets, mean |A ∩ B| / |A ∪ B|, and Cohen's κ of each label."]
    return "\n\n".join(parts)


def _with_clips(one: Mapping[str, Any]) -> list[str]:
    clips = one["clip_label"]
    counts = [f"{one['without_label']:,}", f"{one['several_labels']:,}"]
    return [f"`{one['name']}`", *counts, number(clips["share"]), f"{clips['sentences']:,}"]


def _measures(of: Mapping[str, Any], names: Sequence[str]) -> list[float]:
    return [of["exact"], of["jaccard"], *(of["kappa"][name] for name in names)]


def _limits(numbers: Mapping[str, Any]) -> str:
    lines = [
        "- The labels are a teacher's opinion of text, not of people. What the teacher misreads, a verifier trained "
        "here misreads too, and a policy trained on its reward will find out.",
        "- A sentence was labelled by itself, without its neighbours and without the clip.",
        "- Explanations that models wrote (MERR, predictions) have their authors' phrases and mistakes. Predictions "
        "are mostly of test clips: do not measure on those clips what was trained with this data set.",
        "- The licences of the data sets hold for their sentences; those for research alone stay so.",
    ]
    return "\n".join(lines)


def _published(value: Any) -> Any:
    """The settings without what nobody should publish."""
    if isinstance(value, Mapping):
        return {key: "(not published)" if _SECRET.search(key) else _published(one) for key, one in value.items()}
    return [_published(one) for one in value] if isinstance(value, list | tuple) else value
