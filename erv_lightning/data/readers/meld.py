"""MELD: utterances of the series Friends with seven emotions, in published parts for training, validation and test."""

from __future__ import annotations

from typing import ClassVar

from erv_lightning.data.readers.annotated import AnnotatedClips
from erv_lightning.data.readers.files import ClipFolder, collect, csv_rows, first_existing, known_label
from erv_lightning.data.sample import QUESTION, Published, Sample
from erv_lightning.labels import MELD

PUBLISHED_NAMES = {"train": "train", "val": "dev", "test": "test"}
ANNOTATIONS = (
    "{part}_sent_emo.csv",
    "MELD.Raw/{part}_sent_emo.csv",
    "data/MELD/{part}_sent_emo.csv",
    "{part}/{part}_sent_emo.csv",
    "MELD.Raw/{part}/{part}_sent_emo.csv",
)
FOLDERS = {"train": "train_splits", "val": "dev_splits_complete", "test": "output_repeated_splits_test"}
CLIPS = (
    "{folder}",
    "{part}/{folder}",
    "MELD.Raw/{folder}",
    "MELD.Raw/{part}/{folder}",
    "{part}",
    "MELD.Raw/{part}",
)
# Characters of Windows-1252 that stand in the files as control characters, mostly quotes.
WINDOWS = {code: bytes([code]).decode("cp1252") for code in (0x85, *range(0x91, 0x98))}

COUNTS = {  # utterances of each label, from the data set's README, in MELD's order here
    "train": (1109, 1743, 683, 4710, 271, 268, 1205),
    "val": (153, 163, 111, 470, 22, 40, 150),
    "test": (345, 402, 208, 1256, 68, 50, 281),
}


class Meld(AnnotatedClips):
    """Utterances with what is said: splits ``train``, ``val`` (the published dev) and ``test``.

    Dialogues are numbered anew in each part, so ids name the part: ``dev_dia0_utt1``.

    Args:
        root: folder of ``train_sent_emo.csv``, ``dev_sent_emo.csv`` and ``test_sent_emo.csv`` with the clips in
            ``train_splits/``, ``dev_splits_complete/`` and ``output_repeated_splits_test/``; or the one that holds
            ``MELD.Raw/``, or ``train/``, ``dev/`` and ``test/`` with these.
        question: what the policy is asked.
    """

    parts: ClassVar[tuple[str, ...]] = ("train", "val", "test")

    def __init__(self, root: str, question: str = QUESTION) -> None:
        super().__init__(root, question)

    def _read(self, part: str) -> list[Sample]:
        published = PUBLISHED_NAMES[part]
        names = [name.format(part=published) for name in ANNOTATIONS]
        path = first_existing(self.root, names, f"annotations of {part}")
        clips = ClipFolder(self.root, [name.format(part=published, folder=FOLDERS[part]) for name in CLIPS])

        def make(place: str, cells: dict[str, str]) -> Sample:
            if wrong := [key for key in ("Dialogue_ID", "Utterance_ID") if not cells[key].isdecimal()]:
                raise ValueError(", ".join(f"{key} {cells[key]!r} is no number" for key in wrong))
            name = f"dia{cells['Dialogue_ID']}_utt{cells['Utterance_ID']}"
            return Sample(
                id=f"{published}_{name}",
                dataset="meld",
                clip=clips.find(f"{name}.mp4"),
                question=self.question,
                label_space="meld",
                label=known_label(MELD, cells["Emotion"]),
                split=part,
                subtitle=cells["Utterance"].translate(WINDOWS),
                source=f"{published}_dia{cells['Dialogue_ID']}",
                record=place,
            )

        return collect(csv_rows(path, ("Utterance", "Emotion", "Dialogue_ID", "Utterance_ID")), make)

    def _published(self, part: str) -> Published | None:
        return Published(sum(COUNTS[part]), dict(zip(MELD.names, COUNTS[part], strict=True)))
