"""RAVDESS: 24 actors speak, and 23 of them sing, two sentences in eight emotions; the file names say everything."""

from __future__ import annotations

import re
from collections import Counter

from erv_lightning.data.readers.annotated import AnnotatedClips
from erv_lightning.data.readers.files import Row, collect
from erv_lightning.data.sample import QUESTION, Published, Sample
from erv_lightning.labels import RAVDESS

NAME = re.compile(r"(\d\d)-(\d\d)-(\d\d)-(\d\d)-(\d\d)-(\d\d)-(\d\d)")
FIELDS = ("modality", "channel", "emotion", "intensity", "statement", "repetition", "actor")
LABELS = {f"{index:02d}": name for index, name in enumerate(RAVDESS.names, start=1)}
STATEMENTS = {"01": "Kids are talking by the door.", "02": "Dogs are sitting by the door."}
WITH_SOUND, SPEECH, SONG = "01", "01", "02"  # modality; vocal channels
PLACES = ("*.mp4", "*Actor_*/*.mp4", "*/Actor_*/*.mp4")  # flat, as published, a folder for each archive

ACTORS, FOLDS = 24, 6
SPOKEN = {name: 4 if name == "neutral" else 8 for name in RAVDESS.names}  # clips an actor
SUNG = {name: SPOKEN[name] for name in ("neutral", "calm", "happy", "sad", "angry", "fearful")}
DOES_NOT_SING = 18


class Ravdess(AnnotatedClips):
    """Clips with picture and sound: splits ``train``, ``val`` (whole actors held out of ``train``) and ``test``.

    Args:
        root: folder of ``Actor_01/`` to ``Actor_24/``, or of the clips themselves.
        fold: 1 to 6; fold k tests the actors 4(k − 1) + 1 to 4k, so that nobody is in training and test.
        song: whether sung clips are taken beside the spoken ones.
        question: what the policy is asked.
        holdout: share of the training clips that make the split ``val``, rounded up to whole actors.
    """

    def __init__(
        self, root: str, fold: int = 1, song: bool = False, question: str = QUESTION, holdout: float = 0.05
    ) -> None:
        if not 1 <= fold <= FOLDS:
            raise ValueError(f"RAVDESS has no fold {fold}, only 1 to {FOLDS}: set data.source.init_args.fold")
        super().__init__(root, question, holdout)
        self.fold, self.song = fold, song

    def _read(self, part: str) -> list[Sample]:
        channels = (SPEECH, SONG) if self.song else (SPEECH,)

        def make(place: str, cells: dict[str, str]) -> Sample | None:
            name = NAME.fullmatch(cells["name"])
            if name is None:
                raise ValueError("the name is not MM-VC-EM-IN-ST-RE-AC.mp4: rename the file or move it elsewhere")
            code = dict(zip(FIELDS, name.groups(), strict=True))
            allowed = {"emotion": LABELS, "statement": STATEMENTS, "actor": [f"{n:02d}" for n in range(1, ACTORS + 1)]}
            if wrong := [f"{field} {code[field]}" for field, codes in allowed.items() if code[field] not in codes]:
                raise ValueError(f"RAVDESS has no {', no '.join(wrong)}: correct the name")
            tested = (int(code["actor"]) - 1) // (ACTORS // FOLDS) + 1 == self.fold
            if code["modality"] != WITH_SOUND or code["channel"] not in channels or tested != (part == "test"):
                return None
            return Sample(
                id=cells["name"],
                dataset="ravdess",
                clip=place,
                question=self.question,
                label_space="ravdess",
                label=LABELS[code["emotion"]],
                split=part,
                subtitle=STATEMENTS[code["statement"]],
                fold=self.fold,
                source=code["actor"],
                record=place,
            )

        return collect(self._files(), make)

    def _files(self) -> list[Row]:
        paths = sorted(path for place in PLACES for path in self.root.glob(place) if not path.name.startswith("."))
        if not paths:
            raise ValueError(
                f"no clips in {str(self.root)!r}: looked for {', '.join(PLACES)}; check data.source.init_args.root"
            )
        return [(str(path), {"name": path.stem}) for path in paths]

    def _published(self, part: str) -> Published | None:
        tested = range(4 * self.fold - 3, 4 * self.fold + 1)
        counts: Counter[str] = Counter()
        for actor in range(1, ACTORS + 1):
            if (actor in tested) == (part == "test"):
                counts.update(SPOKEN)
                counts.update(SUNG if self.song and actor != DOES_NOT_SING else {})
        return Published(counts.total(), dict(counts))
