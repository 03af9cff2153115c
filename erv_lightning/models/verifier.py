"""The Emotional Rationale Verifier: a text classifier that tells which emotions a sentence conveys."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer
from transformers.utils import logging

from erv_lightning.labels import GOEMOTIONS, LabelSpace, goemotions_index
from erv_lightning.models.tiny import tiny_verifier

_BATCH_CHARACTERS = 65536  # of a padded batch, some 16,000 tokens: what bounds its memory


class EmotionVerifier(nn.Module):
    """A sequence classifier and its tokenizer: multi-label, unless its config's ``problem_type`` says single-label.

    Its outputs are either the names of a label space or the 28 GoEmotions labels
    (``SamLowe/roberta-base-go_emotions``, ``Rhatanii/Emo_Classifier``); `output_index` finds the way.

    Two fields of the model's config are ours, and released checkpoints do without them: ``erv_softmax_over``, the
    outputs that a single-label classifier was trained to choose from (all of them if it is missing), and
    ``erv_calibration``, see `calibrate`.
    """

    def __init__(self, model: Any, tokenizer: Any) -> None:
        super().__init__()
        self.model = model
        self.tokenizer = tokenizer
        names = model.config.id2label
        self.labels: tuple[str, ...] = tuple(names[index] for index in range(len(names)))

    @classmethod
    def from_pretrained(cls, pretrained: str, labels: Sequence[str] = (), seed: int = 0) -> EmotionVerifier:
        """Reads a sequence classifier, or an encoder that is to become one, from a folder or the hub.

        Weights are float32, whatever they are stored in: those of DeBERTa-v3 are float16, in which Adam diverges.

        Args:
            pretrained: folder or hub id.
            labels: outputs that an encoder gets; without them it is refused.
            seed: of an encoder's new outputs.

        Raises:
            ValueError: it is not there, cannot be read, or is an encoder without outputs; names it.
        """
        try:
            config = AutoConfig.from_pretrained(pretrained)
            new: dict[str, Any] = {}
            if not any("ForSequenceClassification" in name for name in config.architectures or ()):
                if not labels:
                    raise ValueError(f"{pretrained!r} is no classifier but {config.architectures}: train one from it")
                new["id2label"] = dict(enumerate(labels))
                new["label2id"] = {label: index for index, label in enumerate(labels)}
            with torch.random.fork_rng(devices=[]), _quiet(Path(pretrained).is_dir()):
                torch.manual_seed(seed)
                model = AutoModelForSequenceClassification.from_pretrained(pretrained, dtype=torch.float32, **new)
            return cls(model, _tokenizer(pretrained, config.model_type))
        except OSError as error:
            raise ValueError(f"no classifier in {pretrained!r}, neither as a folder nor on the hub: {error}") from error

    @classmethod
    def tiny(cls, sentences: Sequence[str], labels: Sequence[str], seed: int = 0) -> EmotionVerifier:
        """The built-in small classifier, untrained, with a tokenizer made from the training sentences."""
        return cls(*tiny_verifier(sentences, labels, seed))

    def output_index(self, space: LabelSpace) -> list[int]:
        """For every label of the space, the output that stands for it.

        GoEmotions outputs are mapped by method.md's table (happiness → joy, anxiety → nervousness, …).

        Raises:
            ValueError: labels of the space that no output stands for.
        """
        if self.labels == GOEMOTIONS:
            return [goemotions_index(name) for name in space.names]
        own = {space.id(label): index for index, label in enumerate(self.labels)}
        missing = [name for label, name in enumerate(space.names) if label not in own]
        if missing:
            raise ValueError(
                f"the verifier knows {list(self.labels)}, but the data's label space {space.name!r} also has "
                f"{missing}: train a verifier on this data, or use one with the 28 GoEmotions outputs"
            )
        return [own[label] for label in range(len(space.names))]

    def neutral_output(self, space: LabelSpace) -> int:
        """The output that stands for the space's neutral label."""
        return self.output_index(space)[space.neutral]

    def forward(self, sentences: Sequence[str]) -> Tensor:
        """Logits of sentences, (sentences, outputs)."""
        encoded = self.tokenizer(list(sentences), padding=True, truncation=True, return_tensors="pt").to(
            self.model.device
        )
        logits: Tensor = self.model(**encoded).logits
        return logits

    @torch.no_grad()
    def logits(self, texts: Sequence[str], batch_size: int = 512) -> Tensor:
        """Logits of texts in the order given, (texts, outputs), float32 on the CPU.

        Equal texts are scored once, and batches hold texts of similar length; fewer than `batch_size` where they are
        long.
        """
        if not texts:
            return torch.zeros(0, len(self.labels))
        unique = sorted(set(texts), key=lambda text: (len(text), text))
        # to the CPU once: a GPU works on one batch while the next is cut into tokens
        scored = torch.cat([self(batch) for batch in _batches(unique, batch_size)]).float().cpu()
        place = {text: index for index, text in enumerate(unique)}
        return scored[[place[text] for text in texts]]

    def probs(self, sentences: Sequence[str], batch_size: int = 512, calibrated: bool = False) -> Tensor:
        """Probabilities of each label, (sentences, outputs), in [0, 1], on the CPU; see `logits`.

        Independent of each other for a multi-label classifier. For a single-label one each row sums to 1, and outputs
        that it was not trained to choose have 0.

        Args:
            sentences: texts.
            batch_size: at most so many at once.
            calibrated: divide the logits by the temperature that `calibrate` left; the explanation reward does not.

        Raises:
            ValueError: calibrated probabilities of a classifier that was never calibrated.
        """
        logits = self.logits(sentences, batch_size)
        if calibrated:
            logits = logits / self.temperature
        if not self.single_label:
            return logits.sigmoid()
        chosen = getattr(self.model.config, "erv_softmax_over", None)
        if chosen is not None:
            others = torch.ones(len(self.labels), dtype=torch.bool)
            others[chosen] = False
            logits = logits.masked_fill(others, -torch.inf)
        return logits.softmax(1)

    # -- what the config says of the task and of calibration --------------------------------------------------------

    @property
    def single_label(self) -> bool:
        """Whether the outputs compete."""
        return getattr(self.model.config, "problem_type", None) == "single_label_classification"

    def say_task(self, problem_type: str, outputs: Sequence[int]) -> None:
        """Notes in the config what the classifier is trained for, as transformers calls it, and on which outputs."""
        config = self.model.config
        config.problem_type = problem_type
        if self.single_label and sorted(outputs) != list(range(len(self.labels))):
            config.erv_softmax_over = sorted(outputs)
        elif hasattr(config, "erv_softmax_over"):
            del config.erv_softmax_over

    def calibrate(self, temperature: float, thresholds: Mapping[str, float] | None = None) -> None:
        """Notes in the config what was fitted on validation sentences; `save` writes it.

        Args:
            temperature: above 0; `probs` divides by it when asked.
            thresholds: by the name of an output, the least calibrated probability, exclusive, of a label that a
                sentence conveys.

        Raises:
            ValueError: a temperature out of range, or thresholds that do not fit the outputs.
        """
        calibration = {"temperature": float(temperature), "thresholds": dict(thresholds or {})}
        self.model.config.erv_calibration = _checked(calibration, self.labels)

    @property
    def calibrated(self) -> bool:
        """Whether the config holds a calibration."""
        return getattr(self.model.config, "erv_calibration", None) is not None

    @property
    def temperature(self) -> float:
        """What `calibrate` left.

        Raises:
            ValueError: nothing, or what cannot be used.
        """
        return float(self._calibration()["temperature"])

    def thresholds(self, space: LabelSpace) -> Tensor:
        """The calibrated threshold of each label of the space, (labels,); they apply to calibrated probabilities.

        Raises:
            ValueError: the classifier has none for some of them.
        """
        known = self._calibration().get("thresholds") or {}
        names = [self.labels[output] for output in self.output_index(space)]
        missing = [name for name in names if name not in known]
        if missing:
            raise ValueError(f"the verifier's calibration has no thresholds for {missing}: calibrate it on this data")
        return torch.tensor([float(known[name]) for name in names])

    def _calibration(self) -> dict[str, Any]:
        if not self.calibrated:
            raise ValueError(
                "the verifier's config has no erv_calibration, which `fit -c configs/verifier.yaml` leaves where there "
                "are validation sentences: train it again, or do without calibrated thresholds"
            )
        return _checked(self.model.config.erv_calibration, self.labels)

    def save(self, folder: Path) -> None:
        """Writes model and tokenizer in Hugging Face's layout."""
        self.model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)


@contextmanager
def _quiet(local: bool) -> Iterator[None]:
    """No progress bar for weights that are read from a folder: a verifier is small. A download keeps its own."""
    shown = logging.is_progress_bar_enabled()
    if local:
        logging.disable_progress_bar()
    try:
        yield
    finally:
        if local and shown:
            logging.enable_progress_bar()


def _tokenizer(pretrained: str, model_type: str) -> Any:
    """Raises ValueError where the library that reads DeBERTa's vocabulary is missing: transformers names another."""
    try:
        return AutoTokenizer.from_pretrained(pretrained)
    except (ValueError, ImportError) as error:
        if model_type == "deberta-v2" and importlib.util.find_spec("sentencepiece") is None:
            need = "pip install 'erv-lightning[deberta]'"
            raise ValueError(f"the tokenizer of {pretrained!r} needs the package sentencepiece: {need}") from error
        raise


def _checked(calibration: Any, labels: Sequence[str]) -> dict[str, Any]:
    """A calibration that can be used.

    Raises:
        ValueError: all that is wrong with it.
    """
    if not isinstance(calibration, dict) or not isinstance(calibration.get("thresholds") or {}, dict):
        raise ValueError(f"erv_calibration is no mapping of temperature and thresholds: {calibration!r}")
    temperature, thresholds = calibration.get("temperature"), calibration.get("thresholds") or {}
    wrong = []
    if not isinstance(temperature, int | float) or not 0 < temperature < float("inf"):
        wrong.append(f"temperature {temperature!r} is not above 0")
    wrong += [f"threshold of {name!r}, which is no output" for name in thresholds if name not in labels]
    wrong += [
        f"threshold {at!r} of {name!r} is outside [0, 1]"
        for name, at in thresholds.items()
        if not isinstance(at, int | float) or not 0 <= at <= 1
    ]
    if wrong:
        raise ValueError("erv_calibration: " + "; ".join(wrong))
    return calibration


def _batches(texts: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    """Texts, the shortest first, in batches of at most `size` and of few enough characters once they are padded."""
    start = 0
    for end, text in enumerate(texts):
        rows = end - start
        if rows and (rows == size or (rows + 1) * len(text) > _BATCH_CHARACTERS):
            yield texts[start:end]
            start = end
    yield texts[start:]
