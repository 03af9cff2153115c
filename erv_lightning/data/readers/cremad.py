"""CREMA-D: 91 actors say twelve sentences in six emotions; the file names say everything."""

from __future__ import annotations

import re

from erv_lightning.data.readers.annotated import AnnotatedClips
from erv_lightning.data.readers.files import Row, collect, first_existing
from erv_lightning.data.sample import QUESTION, Sample

LABELS = {"ANG": "angry", "DIS": "disgust", "FEA": "fear", "HAP": "happy", "NEU": "neutral", "SAD": "sad"}
SENTENCES = {
    "IEO": "It's eleven o'clock",
    "TIE": "That is exactly what happened",
    "IOM": "I'm on my way to the meeting",
    "IWW": "I wonder what this is about",
    "TAI": "The airplane is almost full",
    "MTI": "Maybe tomorrow it will be cold",
    "IWL": "I would like a new alarm clock",
    "ITH": "I think I have a doctor's appointment",
    "DFA": "Don't forget a jacket",
    "ITS": "I think I've seen this before",
    "TSI": "The surface is slick",
    "WSI": "We'll stop in a couple of minutes",
}
ACTORS = {str(number) for number in range(1001, 1092)}
NAME = re.compile(r"([^_]+)_([^_]+)_([^_]+)_[^_]+")
FOLDERS = ("VideoFlash", ".")
EXTENSIONS = (".flv", ".mp4", ".avi")
FOLDS = 5


class CremaD(AnnotatedClips):
    """Clips named actor_sentence_emotion_level: splits ``train``, ``val`` (whole actors of ``train``) and ``test``.

    Args:
        root: folder of the clips, or the one that holds them in ``VideoFlash/``.
        fold: 1 to 5. The authors published no folds, these are ours: fold k tests the actors 1000 + k, 1005 + k, …, so
            that nobody is in training and test.
        question: what the policy is asked.
        holdout: share of the training clips that make the split ``val``, rounded up to whole actors.
    """

    def __init__(self, root: str, fold: int = 1, question: str = QUESTION, holdout: float = 0.05) -> None:
        if not 1 <= fold <= FOLDS:
            raise ValueError(f"CREMA-D has no fold {fold}, only 1 to {FOLDS}: set data.source.init_args.fold")
        super().__init__(root, question, holdout)
        self.fold = fold

    def _read(self, part: str) -> list[Sample]:
        def make(place: str, cells: dict[str, str]) -> Sample | None:
            name = NAME.fullmatch(cells["name"])
            if name is None:
                raise ValueError("the name is not actor_sentence_emotion_level: rename the file or move it elsewhere")
            actor, sentence, emotion = name.groups()
            codes = (("actor", actor, ACTORS), ("sentence", sentence, SENTENCES), ("emotion", emotion, LABELS))
            if wrong := [f"{what} {code}" for what, code, known in codes if code not in known]:
                raise ValueError(f"CREMA-D has no {', no '.join(wrong)}: correct the name")
            if (int(actor) % FOLDS == self.fold % FOLDS) != (part == "test"):
                return None
            return Sample(
                id=cells["name"],
                dataset="cremad",
                clip=place,
                question=self.question,
                label_space="cremad",
                label=LABELS[emotion],
                split=part,
                subtitle=SENTENCES[sentence],
                fold=self.fold,
                source=actor,
                record=place,
            )

        return collect(self._files(), make)

    def _files(self) -> list[Row]:
        folder = first_existing(self.root, FOLDERS, "folder of clips")
        clips = [path for path in folder.iterdir() if path.suffix.lower() in EXTENSIONS]
        paths = sorted(path for path in clips if not path.name.startswith("."))
        if not paths:
            raise ValueError(f"no {', '.join(EXTENSIONS)} in {str(folder)!r}: check data.source.init_args.root")
        return [(str(path), {"name": path.stem}) for path in paths]
