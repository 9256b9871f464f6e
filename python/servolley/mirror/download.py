"""Files of one folder, several at once, each whole or not at all."""

import hashlib
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from servolley.mirror.cache import Progress, Written, already_written, note_written
from servolley.mirror.listing import Files, Listing, RemoteFile
from servolley.mirror.names import MirrorError

_CHUNK_BYTES = 1 << 20


class Budget:
    """Bytes that may still come of files whose size the remote side does not say."""

    def __init__(self, limit_bytes: int) -> None:
        self._left = limit_bytes
        self._lock = threading.Lock()

    def take(self, size: int) -> None:
        """Raises MirrorError."""
        with self._lock:
            self._left -= size
            if self._left < 0:
                raise MirrorError("more than remote.max_size")


class Downloads:
    """``threads`` files at once. ``progress`` is told of bytes, on any thread."""

    def __init__(self, threads: int, progress: Progress) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="fetch")
        self._progress = progress
        self._came = 0
        self._lock = threading.Lock()

    def take_came(self) -> int:
        """Bytes that have come since this was asked last, also in vain."""
        with self._lock:
            came, self._came = self._came, 0
        return came

    def fetch(self, listing: Listing, files: Files, folder: Path, budget: Budget) -> dict[str, Written]:
        """All of them into ``folder``. Raises MirrorError or OSError when the first one fails; those that
        came whole stay there for the next attempt."""
        stop = threading.Event()
        jobs = {
            path: self._pool.submit(self._fetch, listing, file, folder, path, budget, stop.is_set)
            for path, file in files.items()
        }
        try:
            return {path: job.result() for path, job in jobs.items()}
        finally:
            stop.set()  # what has not failed need not go on
            for job in jobs.values():
                job.cancel()
            for job in jobs.values():
                if not job.cancelled():
                    job.exception()

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)

    def _fetch(
        self,
        listing: Listing,
        file: RemoteFile,
        folder: Path,
        path: str,
        budget: Budget,
        stopped: Callable[[], bool],
    ) -> Written:
        earlier = already_written(folder, path, file)
        if earlier is not None:
            return earlier
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(f".{target.name}.part")
        digest, size = hashlib.sha256(), 0
        try:
            with listing.open(file) as source, part.open("wb") as out:
                while chunk := source.read(_CHUNK_BYTES):
                    if stopped():
                        raise MirrorError("given up")
                    size += len(chunk)
                    with self._lock:
                        self._came += len(chunk)
                    if file.size is None:
                        budget.take(len(chunk))
                    elif size > file.size:
                        break
                    out.write(chunk)
                    digest.update(chunk)
                    self._progress(len(chunk))
                out.flush()
                os.fsync(out.fileno())
            if file.size is not None and size != file.size:
                raise MirrorError(f"'{path}' has {size} bytes or more, not {file.size}: cut off, or changing")
            if file.sha256 is not None and digest.hexdigest() != file.sha256:
                raise MirrorError(f"'{path}' has not the SHA-256 that it should have")
            part.rename(target)
        finally:
            part.unlink(missing_ok=True)
        written = Written(size, digest.hexdigest())
        note_written(folder, path, file, written)
        return written
