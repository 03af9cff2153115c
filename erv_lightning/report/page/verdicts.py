"""Has sentences read that no run has read yet: which verifier reads whose, by which rule, each sentence once.

torch and transformers are imported only where something is left to read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from erv_lightning.labels import get_label_space
from erv_lightning.report.page.reading import PageRun
from erv_lightning.report.page.rows import Explanation

if TYPE_CHECKING:
    from erv_lightning.models.verifier import EmotionVerifier

AT_ONCE = 2048  # sentences between two moves of the progress bar

Told = Callable[[int, int], None]
"""Takes how many sentences have been read, and how many there are."""

_RULE = ("threshold", "max_labels", "calibrated")


@dataclass(frozen=True)
class Reader:
    """A verifier and the rule by which its probabilities become labels.

    Attributes:
        folder: of the verifier.
        rule: settings of `erv_lightning.rl.reward_terms.ExplanationRule`; those left out are the paper's.
    """

    folder: str
    rule: tuple[tuple[str, Any], ...] = ()

    @property
    def key(self) -> str:
        """What tells it from others."""
        return f"{self.folder} {dict(self.rule)}" if self.rule else self.folder


def own_key(run: PageRun) -> str:
    """The key of a run's own verifier, whether it is still there or not; "" without one."""
    own = _own(run)
    return own.key if own else ""


def choose(runs: Sequence[PageRun], verifier: Path | None) -> dict[str, Reader]:
    """Who is to read the sentences of each run, by the run's name; no run where there is no verifier at all.

    The verifier that is given, else the run's own, else the first one of the other runs. A run that has a rule of its
    own for explanations keeps it.

    Raises:
        FileNotFoundError: the verifier that is given is no folder.
    """
    if verifier is not None and not verifier.is_dir():
        raise FileNotFoundError(f"no folder {str(verifier)!r}: correct --verifier")
    there = [own for run in runs if (own := _own(run)) is not None and Path(own.folder).is_dir()]
    readers = {}
    for run in runs:
        own = _own(run)
        if verifier is not None:
            readers[run.name] = Reader(str(verifier), _rule(run) or (there[0].rule if there else ()))
        elif own is not None and Path(own.folder).is_dir():
            readers[run.name] = own
        elif there:
            readers[run.name] = Reader(there[0].folder, _rule(run) or there[0].rule)
    return readers


def _own(run: PageRun) -> Reader | None:
    if run.stage == "verifier":
        return Reader(str(run.path / "export"))
    folder = run.setting("model", "init_args", "verifier")
    return Reader(folder, _rule(run)) if isinstance(folder, str) and folder else None


def _rule(run: PageRun) -> tuple[tuple[str, Any], ...]:
    rule = run.setting("model", "init_args", "explanation")
    return tuple((key, rule[key]) for key in _RULE if key in rule) if isinstance(rule, Mapping) else ()


def unread(explanations: Iterable[Explanation]) -> list[Explanation]:
    """Those with a sentence that nobody has read."""
    return [one for one in explanations if one.sentences and one.verdicts is None]


def read(explanations: Sequence[Explanation], readers: Iterable[Reader], told: Told) -> list[str]:
    """Has unread explanations read by their readers.

    Args:
        explanations: of `unread`; they get their verdicts.
        readers: all there are; an explanation names its own by its key.
        told: is told how far it is.

    Returns:
        A note for each label space that a reader cannot read.

    Raises:
        ValueError: a reader cannot be loaded.
    """
    by_key = {reader.key: reader for reader in readers}
    tasks: dict[tuple[str, str], list[Explanation]] = {}
    for one in explanations:
        if one.reader in by_key:
            tasks.setdefault((one.reader, one.space), []).append(one)
    if not tasks:
        return []
    total = sum(len({text for one in each for text in one.sentences}) for each in tasks.values())
    loaded: dict[str, EmotionVerifier] = {}
    notes: list[str] = []
    done = 0
    for (key, space), each in tasks.items():
        reader = by_key[key]
        if reader.folder not in loaded:
            loaded[reader.folder] = _loaded(reader.folder)
        texts = list(dict.fromkeys(text for one in each for text in one.sentences))
        try:
            verdicts = _conveyed(loaded[reader.folder], reader, space, texts, partial(_ahead, told, done, total))
        except ValueError as error:  # labels or thresholds that it does not know
            notes.append(f"{reader.folder} cannot read the sentences of {space}: {error}.")
            continue
        finally:
            done += len(texts)
        for one in each:
            one.verdicts = [verdicts[text] for text in one.sentences]
    return notes


def _loaded(folder: str) -> EmotionVerifier:
    from erv_lightning.models.verifier import EmotionVerifier

    try:
        return EmotionVerifier.from_pretrained(folder).requires_grad_(False).eval()
    except ValueError as error:
        raise ValueError(f"the verifier {folder} cannot be loaded: {error}; name another with --verifier") from error


def _ahead(told: Told, done: int, total: int, more: int) -> None:
    told(done + more, total)


def _conveyed(
    verifier: EmotionVerifier, reader: Reader, space_name: str, texts: Sequence[str], told: Callable[[int], None]
) -> dict[str, tuple[list[int], float | None]]:
    """Labels and highest probability of each sentence."""
    from erv_lightning.rl.reward_terms import ExplanationRule

    rule, space = ExplanationRule(**dict(reader.rule)), get_label_space(space_name)
    outputs = verifier.output_index(space)
    found: dict[str, tuple[list[int], float | None]] = {}
    for start in range(0, len(texts), AT_ONCE):
        some = texts[start : start + AT_ONCE]
        whole = [text.encode("utf-8", "replace").decode() for text in some]  # no tokenizer reads half a character
        probs_SK = verifier.probs(whole, calibrated=rule.calibrated)[:, outputs]
        labels = rule.conveyed(probs_SK, verifier, space)
        highest = [round(p, 4) for p in probs_SK.amax(1).tolist()]
        found |= dict(zip(some, zip(labels, highest, strict=True), strict=True))
        told(start + len(some))
    return found
