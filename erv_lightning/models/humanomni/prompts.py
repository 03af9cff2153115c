"""HumanOmni's prompts from questions and clips: what a data worker needs of the model, without its weights.

Legend: P prompts, T prompt tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from erv_lightning.data.media import Clip
from erv_lightning.models.backbone import PromptBatch, PromptFeatures
from erv_lightning.models.hugging_face import read_pretrained
from erv_lightning.models.humanomni.configuration import HumanOmniConfig
from erv_lightning.models.humanomni.processing import HumanOmniProcessor

VIDEO, AUDIO = "pixel_values_videos", "input_features"
QUESTION = ("question_input_ids", "question_attention_mask")  # padded to the longest question of a batch


class HumanOmniPrompts:
    """The processor of a HumanOmni model, and its positions, which are those of plain text.

    A clip whose frames or audio are None gets no placeholder and no media of that kind. Of another number of frames
    than the model's, frames are left out or repeated.

    Args:
        processor: a `HumanOmniProcessor`.
    """

    def __init__(self, processor: HumanOmniProcessor) -> None:
        self.processor = processor
        self.media_tokens = {"video": processor.video_token_id, "audio": processor.audio_token_id}

    @classmethod
    def from_pretrained(cls, pretrained: str) -> HumanOmniPrompts:
        """Reads the processor of a converted checkpoint. Raises ValueError for a folder that is not there."""
        _, processor = read_pretrained(pretrained, HumanOmniConfig.from_pretrained, HumanOmniProcessor.from_pretrained)
        return cls(processor)

    @property
    def max_audio_seconds(self) -> float:
        """What the Whisper front end takes before it cuts."""
        return float(self.processor.feature_extractor.chunk_length)

    def encode_prompt(self, question: str, clip: Clip) -> PromptFeatures:
        """Wrapper, chat template and media of a question and its clip; the gate reads the bare question.

        Raises:
            ValueError: a question that holds a placeholder, or audio of another sample rate.
        """
        media: dict[str, Tensor] = {}
        if clip.frames is not None:
            media[VIDEO] = self.processor.see([clip.frames])
            read = self.processor.question_tokenizer([question], truncation=True, max_length=512, return_tensors="pt")
            media |= dict(zip(QUESTION, (read["input_ids"], read["attention_mask"]), strict=True))
        if clip.audio is not None:
            media[AUDIO] = self.processor.hear([clip.audio], clip.sample_rate)
        kinds = [kind for kind, name in (("video", VIDEO), ("audio", AUDIO)) if name in media]
        input_ids = torch.tensor(self.processor.input_ids(question, kinds))
        return PromptFeatures(input_ids, torch.arange(len(input_ids)).expand(3, -1), media)

    # -- batches ---------------------------------------------------------------------------------------------

    def collate(self, ids: Sequence[str], prompts: Sequence[PromptFeatures]) -> PromptBatch:
        """Left-pads prompts and concatenates their media, or the towers' features. ValueError where they differ."""
        batch = PromptBatch.padded(ids, prompts, int(self.processor.tokenizer.pad_token_id))
        for name in prompts[0].media:
            values = [prompt.media[name] for prompt in prompts]
            if name in QUESTION:
                width = max(value.shape[-1] for value in values)
                values = [nn.functional.pad(value, (0, width - value.shape[-1])) for value in values]
            batch.media[name] = torch.cat(values)
        return batch

    def split(self, batch: PromptBatch) -> list[PromptFeatures]:
        """The prompts of a batch, one by one; see `Backbone.split`."""
        media: list[dict[str, Tensor]] = [
            {name: value[row : row + 1] for name, value in batch.media.items()} for row in range(len(batch.ids))
        ]
        if QUESTION[1] in batch.media:
            for part in media:
                asked = int(part[QUESTION[1]].sum())
                part |= {name: part[name][:, :asked] for name in QUESTION}
        return batch.unpadded(media, self.media_tokens)

    def check_media(self, batch: PromptBatch) -> None:
        """Raises ValueError if a prompt's placeholders do not match its media; names the samples."""
        frames, each = self.processor.num_frames, self.processor.tokens_per_frame
        wanted = {
            "video": frames * each if VIDEO in batch.media else 0,
            "audio": self.processor.audio_tokens if AUDIO in batch.media else 0,
        }
        batch.check_placeholders(self.media_tokens, {name: [count] * len(batch.ids) for name, count in wanted.items()})
