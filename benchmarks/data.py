"""How fast clips arrive: the whole loader beside the bare decoder that reads the same frames and sound.

    python -m benchmarks.data [--clips 24] [--rounds 7]

The bare decoder is the library alone, PyAV or torchcodec, in a plain loop, in as many processes as the loader has
workers. The loader adds resizing, the prompt with its pixels and mel bands, collating and the way between processes.
Both sides take turns, one thread a process; the table gives medians. Results: benchmarks/results/data.{json,md}.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import statistics
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from time import perf_counter
from typing import Any

import av
import numpy as np
import torch
import torchaudio.functional as audio_functional
from rich.progress import Progress

from erv_lightning.data.datamodule import ClipDataModule
from erv_lightning.data.encode import write_mp4
from erv_lightning.data.media import frame_indices
from erv_lightning.data.sample import ClipSource, Sample
from erv_lightning.models import QwenOmniBackbone

RESULTS = Path(__file__).parent / "results"
SIZES = {"224×224": (224, 224), "720p": (720, 1280)}  # height, width
FPS, SECONDS, FRAMES, RATE = 25, 3.0, 8, 16000
WORKERS = (0, 1, 2)
BATCH = 4


class Listed(ClipSource):
    """Clips by path."""

    def __init__(self, paths: list[str]) -> None:
        self.paths = paths

    def samples(self, split: str) -> list[Sample]:
        return [
            Sample(str(i), "bench", path, "Which emotion?", "dfew", "happy", split) for i, path in enumerate(self.paths)
        ]


def make_clips(folder: Path, size: tuple[int, int], count: int) -> list[str]:
    """Pictures that move and have grain, as cameras make them, and a voice-like sound."""
    paths = []
    height, width = size
    rng = np.random.default_rng(0)
    large = rng.integers(0, 255, (height // 8 + 40, width // 8 + 40, 3)).astype(np.uint8).repeat(8, 0).repeat(8, 1)
    for index in range(count):
        frames = []
        for time in range(int(FPS * SECONDS)):
            x, y = 2 * time + index, time + 2 * index
            grain = rng.normal(0, 4, (height, width, 1))
            frames.append(np.clip(large[y : y + height, x : x + width] * 0.6 + 40 + grain, 0, 255).astype(np.uint8))
        seconds = np.arange(int(RATE * SECONDS)) / RATE
        sound = 0.3 * np.sin(2 * np.pi * 150 * seconds) + rng.normal(0, 0.02, len(seconds))
        path = folder / f"{height}-{index}.mp4"
        write_mp4(path, np.stack(frames), sound.astype(np.float32), FPS, RATE)
        paths.append(str(path))
    return paths


# -- the bare decoders --------------------------------------------------------------------------------------------


def bare_pyav(path: str) -> None:
    """Frames and sound of a clip with nothing but PyAV."""
    with av.open(path) as container:
        stream = container.streams.video[0]
        wanted = set(frame_indices(stream.frames, FRAMES))
        kept = [
            frame.to_ndarray(format="rgb24") for index, frame in enumerate(container.decode(stream)) if index in wanted
        ]
        np.stack(kept)
    with av.open(path) as container:
        sound = container.streams.audio[0]
        pieces = np.concatenate([frame.to_ndarray() for frame in container.decode(sound)], axis=1)
        audio_functional.resample(torch.from_numpy(pieces).mean(0), sound.rate, RATE)


def bare_torchcodec(path: str) -> None:
    """The same with torchcodec."""
    from torchcodec.decoders import AudioDecoder, VideoDecoder

    video = VideoDecoder(path, num_ffmpeg_threads=1)
    video.get_frames_at(frame_indices(len(video), FRAMES))
    AudioDecoder(path, sample_rate=RATE, num_channels=1).get_all_samples()


BARE = {"pyav": bare_pyav, "torchcodec": bare_torchcodec}


def _bare_part(decoder: str, paths: list[str], begin: Any, done: Any) -> None:
    torch.set_num_threads(1)
    BARE[decoder](paths[0])
    done.put(None)
    begin.wait()
    for path in paths:
        BARE[decoder](path)
    done.put(None)


def bare_seconds(decoder: str, paths: list[str], processes: int) -> float:
    """Seconds for all clips, shared among processes that have started before."""
    if processes == 1:
        started = perf_counter()
        for path in paths:
            BARE[decoder](path)
        return perf_counter() - started
    context = multiprocessing.get_context("fork")
    begin, done = context.Event(), context.Queue()
    parts = [paths[part::processes] for part in range(processes)]
    running = [context.Process(target=_bare_part, args=(decoder, part, begin, done)) for part in parts]
    for process in running:
        process.start()
    for _ in running:
        done.get()
    started = perf_counter()
    begin.set()
    for _ in running:
        done.get()
    seconds = perf_counter() - started
    for process in running:
        process.join()
    return seconds


# -- the loader ---------------------------------------------------------------------------------------------------


def passes(data: ClipDataModule, count: int) -> Iterator[float]:
    """Seconds of each pass over all clips; the first one, in which workers start, is not given."""
    loader = data.val_dataloader()
    for number in range(count + 1):
        started = perf_counter()
        for _ in loader:
            pass
        if number:
            yield perf_counter() - started


def _data(paths: list[str], decoder: str, workers: int, **settings: Any) -> ClipDataModule:
    data = ClipDataModule(
        Listed(paths),
        eval_batch_size=BATCH,
        num_workers=workers,
        num_frames=FRAMES,
        frame_size=(224, 224),
        decoder=decoder,
        **settings,  # type: ignore[arg-type]
    )
    data.encoder = QwenOmniBackbone.prompt_encoder()
    return data


def against_decoder(size: str, paths: list[str], decoder: str, workers: int, rounds: int) -> dict[str, Any]:
    """Clips per second of both, in turn."""
    loader = passes(_data(paths, decoder, workers), rounds)
    pairs = [(next(loader), bare_seconds(decoder, paths, max(1, workers))) for _ in range(rounds)]
    return {
        "clips": size,
        "decoder": decoder,
        "workers": workers,
        "loader_clips_s": len(paths) / statistics.median(ours for ours, _ in pairs),
        "bare_clips_s": len(paths) / statistics.median(bare for _, bare in pairs),
        "ratio": statistics.median(bare / ours for ours, bare in pairs),
        "ratios": [round(bare / ours, 3) for ours, bare in pairs],
    }


def with_cache(size: str, paths: list[str], folder: Path, rounds: int) -> dict[str, Any]:
    """A pass that decodes against one that reads the cache, in turn."""
    plain = passes(_data(paths, "pyav", 0), rounds)
    cached = passes(_data(paths, "pyav", 0, cache=str(folder)), rounds)
    pairs = [(next(cached), next(plain)) for _ in range(rounds)]
    return {
        "clips": size,
        "decoding_clips_s": len(paths) / statistics.median(decoding for _, decoding in pairs),
        "cache_clips_s": len(paths) / statistics.median(cache for cache, _ in pairs),
        "ratio": statistics.median(decoding / cache for cache, decoding in pairs),
    }


# -- the report ---------------------------------------------------------------------------------------------------


def markdown(report: dict[str, Any]) -> str:
    """The tables."""
    lines = [
        "# How fast clips arrive",
        "",
        f"Made by `{report['command']}` on {report['machine']}: {SECONDS:g} s clips, {FPS} frames a second, sound, "
        f"{FRAMES} frames each at 224×224 for the tiny policy, batches of {BATCH}.",
        "",
        "| clips | decoder | workers | loader, clips/s | bare decoder, clips/s | loader / bare |",
        "|---|---|---:|---:|---:|---:|",
        *(
            f"| {row['clips']} | {row['decoder']} | {row['workers']} | {row['loader_clips_s']:.1f} "
            f"| {row['bare_clips_s']:.1f} | **{row['ratio']:.2f}** |"
            for row in report["loader"]
        ),
        "",
        "The bare decoder runs in as many processes as there are workers (one for 0).",
        "",
        "| clips | decoding, clips/s | from the cache, clips/s | ratio |",
        "|---|---:|---:|---:|",
        *(
            f"| {row['clips']} | {row['decoding_clips_s']:.1f} | {row['cache_clips_s']:.1f} | **{row['ratio']:.1f}×** |"
            for row in report["cache"]
        ),
        "",
        "Whole loader on both sides, no workers: the second epoch with `data.cache` against one that decodes.",
    ]
    return "\n".join(lines) + "\n"


def measure(count: int, rounds: int, progress: Callable[[], None]) -> dict[str, Any]:
    """Everything."""
    decoders = ["pyav"]
    try:
        import torchcodec.decoders  # noqa: F401

        decoders.append("torchcodec")
    except (ImportError, OSError, RuntimeError):
        pass
    loader, cache = [], []
    with tempfile.TemporaryDirectory() as folder:
        for size, shape in SIZES.items():
            paths = make_clips(Path(folder), shape, count)
            for decoder in decoders:
                for workers in WORKERS:
                    loader.append(against_decoder(size, paths, decoder, workers, rounds))
                    progress()
            cache.append(with_cache(size, paths, Path(folder) / "cache", rounds))
            progress()
    machine = (
        f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, torch {torch.__version__}"
    )
    return {"machine": machine, "clips": count, "rounds": rounds, "loader": loader, "cache": cache}


def main(argv: list[str]) -> None:
    """Measures and writes the results."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.data")
    parser.add_argument("--clips", type=int, default=24, help="of each size")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    with Progress() as bar:
        task = bar.add_task("data", total=2 * (2 * len(WORKERS) + 1))
        report = measure(args.clips, args.rounds, lambda: bar.advance(task))
    report["command"] = " ".join(["python -m benchmarks.data", *argv])
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "data.json").write_text(json.dumps(report, indent=1) + "\n")
    (args.out / "data.md").write_text(markdown(report))
    print(markdown(report))


if __name__ == "__main__":
    import sys

    main(sys.argv[1:])
