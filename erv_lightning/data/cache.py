"""Decoded clips on disk: a file each, named by the clip's content and the media settings.

Safe under several workers, ranks and runs at once: files appear whole or not at all, whoever reads one that vanishes or
is damaged decodes the clip again, and one process at a time makes room.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import tempfile
from dataclasses import asdict
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from erv_lightning.data.media import Clip, MediaSettings, load_clip

log = logging.getLogger(__name__)

VERSION = 1  # of what is stored; another version reads no files of this one
SLACK = 0.9  # making room goes on until so much of the limit is left filled
CHECK_EVERY = 64  # clips that a process writes between two looks at the size


class ClipCache:
    """Answers `load_clip` from disk where it can.

    Args:
        folder: where the files are; made if need be.
        limit: bytes that they may take. Exceeded for a moment by what `CHECK_EVERY` clips of each process take.
    """

    def __init__(self, folder: str | Path, limit: int) -> None:
        self.folder, self.limit = Path(folder), limit
        self._digests: dict[tuple[str, int, int], str] = {}
        self._written = 0
        self._writes = True  # until that fails

    def load(
        self,
        source: str | Path | bytes,
        settings: MediaSettings = MediaSettings(),  # noqa: B008  # frozen
        *,
        audio: str | bytes = "",
        record: str = "",
    ) -> Clip:
        """The clip, as `load_clip` gives it. A clip that cannot be used is not stored, so it is tried again."""
        path = self._path(source, settings, audio)
        if path is None:
            return load_clip(source, settings, audio=audio, record=record)
        clip = _read(path)
        if clip is None:
            clip = load_clip(source, settings, audio=audio, record=record)
            if self._writes:
                self._write(path, clip)
        return clip

    # -- names -----------------------------------------------------------------------------------------------

    def _path(self, source: str | Path | bytes, settings: MediaSettings, audio: str | bytes) -> Path | None:
        """Where the clip belongs, or None where its content cannot be read: decoding says why."""
        wanted = {**asdict(settings), "decoder": ""}  # both decoders give the same
        try:
            digests = [content_digest(part, self._digests) for part in (source, audio) if part]
        except OSError:
            return None
        key = json.dumps([VERSION, digests, wanted])
        name = hashlib.blake2b(key.encode(), digest_size=20).hexdigest()
        return self.folder / name[:2] / f"{name}.safetensors"

    # -- files -----------------------------------------------------------------------------------------------

    def _write(self, path: Path, clip: Clip) -> None:
        tensors = {name: value for name, value in (("frames", clip.frames), ("audio", clip.audio)) if value is not None}
        rest = {
            "sample_rate": clip.sample_rate,
            "fps": clip.fps,
            "has_audio": clip.has_audio,
            "duration": clip.duration,
            "size": clip.size,
        }
        unfinished = ""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, unfinished = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
            os.close(handle)
            save_file(tensors, unfinished, metadata={"clip": json.dumps(rest)})
            os.replace(unfinished, path)
        except (OSError, SafetensorError) as error:
            # no reason to end a run: it reads clips as it would without a cache
            log.warning(f"the cache {str(self.folder)!r} cannot be written, so no more clips are kept ({error})")
            self._writes = False
            return
        finally:
            if unfinished:
                Path(unfinished).unlink(missing_ok=True)
        self._written += 1
        if self._written % CHECK_EVERY == 1:  # at the first too: a process may write few
            self.make_room()

    def make_room(self) -> None:
        """Deletes the clips used longest ago until the rest fits."""
        with (self.folder / ".lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:  # another process is at it
                return
            files = []
            for path in self.folder.glob("*/*"):
                try:
                    stat = path.stat()
                except FileNotFoundError:
                    continue
                files.append((stat.st_mtime_ns, stat.st_size, path))
            total = sum(size for _, size, _ in files)
            if total <= self.limit:
                return
            for _, size, path in sorted(files):
                if total <= SLACK * self.limit:
                    break
                path.unlink(missing_ok=True)
                total -= size


def _read(path: Path) -> Clip | None:
    """A stored clip, marked as used; None where there is none, or a damaged one, which is removed."""
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a mapping
            rest = json.loads(file.metadata()["clip"])
        os.utime(path)
    except FileNotFoundError:
        return None
    except (SafetensorError, OSError, KeyError, TypeError, ValueError):
        path.unlink(missing_ok=True)
        return None
    rest["size"] = tuple(rest["size"])
    return Clip(tensors.get("frames"), tensors.get("audio"), **rest)


def content_digest(source: str | Path | bytes, known: dict[tuple[str, int, int], str] | None = None) -> str:
    """Of a file's content, or of all files of a folder.

    Args:
        source: the file, the folder, or the content itself.
        known: what was read before; files whose size and time are the same are not read again.
    """
    known = {} if known is None else known
    if isinstance(source, bytes):
        return hashlib.blake2b(source, digest_size=20).hexdigest()
    path = Path(source)
    if path.is_dir():
        parts = [f"{file.name}:{content_digest(file, known)}" for file in sorted(path.iterdir()) if file.is_file()]
        return content_digest("\n".join(parts).encode())
    stat = path.stat()
    key = (str(path.absolute()), stat.st_size, stat.st_mtime_ns)
    if key not in known:
        with path.open("rb") as file:
            known[key] = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=20)).hexdigest()
    return known[key]
