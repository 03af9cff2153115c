"""One clip at a time: can it be decoded, what is in it, how long is its prompt?"""

from __future__ import annotations

import hashlib
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from erv_lightning.data.cache import content_digest
from erv_lightning.data.clips import ClipRules, PromptEncoder, make_prompt
from erv_lightning.data.media import Clip, ClipError, load_clip
from erv_lightning.data.sample import Sample


@dataclass(frozen=True)
class Probe:
    """What was found of a sample's clip.

    Attributes:
        missing: there is no such file.
        error: why it cannot be used; "" if it can.
        has_audio: whether there is a sound.
        duration: in seconds.
        size: height and width of its pictures.
        prompt_tokens, media_tokens: of the prompt, None without an encoder.
        digest: of its content, "" where that cannot be read.
    """

    missing: bool = False
    error: str = ""
    has_audio: bool = False
    duration: float = 0.0
    size: tuple[int, int] = (0, 0)
    prompt_tokens: int | None = None
    media_tokens: int | None = None
    digest: str = ""


@dataclass(frozen=True)
class Prober:
    """Looks at clips as a run would, but with PyAV, which refuses damaged pictures that torchcodec patches up.

    Args:
        rules: of the data module.
        media: of its source.
        encoder: makes the prompts; None leaves their lengths out.
    """

    rules: ClipRules
    media: Callable[[Sample], tuple[str | bytes, str | bytes]]
    encoder: PromptEncoder | None = None

    def __call__(self, sample: Sample) -> Probe:
        """Never raises for a bad clip."""
        record = sample.record or sample.id
        try:
            clip, audio = self.media(sample)
            if isinstance(clip, str) and not Path(clip).exists():
                return Probe(missing=True, error=f"clip {clip!r} (from {record}) does not exist")
            digests = [content_digest(part) for part in (clip, audio) if part]
            digest = hashlib.blake2b("".join(digests).encode(), digest_size=20).hexdigest()
        except OSError as error:
            return Probe(error=f"clip {sample.clip!r} (from {record}) cannot be read: {error}")
        media = replace(self.rules.media, decoder="pyav")
        try:
            read = Clip(None, None, media.sample_rate, 0.0, False, 0.0, (0, 0))
            if media.video or media.audio:
                read = load_clip(clip, media, audio=audio, record=record)
            found = Probe(has_audio=read.has_audio, duration=read.duration, size=read.size, digest=digest)
            return found if self.encoder is None else self._measured(sample, read, found, self.encoder)
        except ClipError as error:
            return Probe(error=str(error), digest=digest)

    def _measured(self, sample: Sample, clip: Clip, found: Probe, encoder: PromptEncoder) -> Probe:
        ids = make_prompt(sample, clip, encoder, self.rules).input_ids
        kinds: dict[str, int] = getattr(encoder, "media_tokens", {})
        tokens = torch.tensor(list(kinds.values()), dtype=ids.dtype)
        return replace(found, prompt_tokens=len(ids), media_tokens=int(torch.isin(ids, tokens).sum()))

    def all(self, samples: Sequence[Sample], workers: int) -> Iterator[Probe]:
        """A probe of each sample, in order, from several processes. A process that dies names its clip."""
        if workers < 2 or len(samples) < 2:
            yield from map(self, samples)
            return
        context = multiprocessing.get_context("fork")  # what probes need travels without pickling
        done = 0
        try:
            with ProcessPoolExecutor(workers, mp_context=context, initializer=_adopt, initargs=(self,)) as pool:
                for probe in pool.map(_probe, samples, chunksize=4):
                    yield probe
                    done += 1
        except BrokenProcessPool:
            for sample in samples[done:]:
                yield self._alone(context, sample)

    def _alone(self, context: Any, sample: Sample) -> Probe:
        """In a process for this clip alone."""
        ours, theirs = context.Pipe(duplex=False)

        def probe_it() -> None:
            _adopt(self)
            theirs.send(self(sample))

        process = context.Process(target=probe_it)
        process.start()
        theirs.close()
        try:
            probe: Probe = ours.recv()
        except EOFError:
            process.join()
            probe = Probe(error=f"clip {sample.clip!r}: decoding it ended the process (status {process.exitcode})")
        process.join()
        return probe


_own: list[Prober] = []  # of a worker process


def _adopt(prober: Prober) -> None:
    torch.set_num_threads(1)
    _own[:] = [prober]


def _probe(sample: Sample) -> Probe:
    return _own[0](sample)
