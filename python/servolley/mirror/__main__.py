"""The mirror's process: does what it is asked on standard input, until that ends with the server."""

import os
import sys
import threading
import time
from pathlib import Path
from typing import IO, Any

import msgspec

from servolley.mirror.cache import Cache
from servolley.mirror.folder import open_repository
from servolley.mirror.messages import Answer, Ask, Job
from servolley.mirror.mirror import Mirror
from servolley.mirror.names import MirrorError, said, shown

_NICENESS = 10
_BETWEEN_SIGNS_S = 1.0


class _Voice:
    """The way to the server; libraries that print do so elsewhere."""

    def __init__(self, out: IO[bytes]) -> None:
        self._out = out
        self._lock = threading.Lock()
        self._next_sign = 0.0

    def say(self, answer: Answer) -> None:
        with self._lock:
            self._out.write(msgspec.json.encode(answer) + b"\n")
            self._out.flush()

    def progress(self, _: int) -> None:
        now = time.monotonic()
        if now >= self._next_sign:
            self._next_sign = now + _BETWEEN_SIGNS_S
            self.say(Answer())


def main() -> int:
    os.nice(_NICENESS)
    voice = _Voice(os.fdopen(os.dup(1), "wb"))
    os.dup2(2, 1)
    requests = sys.stdin.buffer
    job = msgspec.json.decode(requests.readline(), type=Job)
    mirror: Mirror | None = None
    for line in requests:
        ask = msgspec.json.decode(line, type=Ask)
        try:
            mirror = mirror or _mirror(job, voice)
        except MirrorError as error:
            voice.say(Answer(number=ask.number, error=str(error)))
            continue
        # Not here, so that the end of the server is noticed whatever is going on.
        threading.Thread(target=_work, args=(mirror, ask, voice), daemon=True).start()
    os._exit(0)  # what was being copied is thrown away by the next one


def _mirror(job: Job, voice: _Voice) -> Mirror:
    """Raises MirrorError."""
    cache = Cache(Path(job.cache), shown(job.url))
    return Mirror(
        open_repository(job.url, job.name, job.options, voice.progress),
        cache,
        url=job.url,
        max_bytes=job.max_bytes,
        downloads=job.downloads,
        triton_message=_triton_message,
        progress=voice.progress,
    )


def _work(mirror: Mirror, ask: Ask, voice: _Voice) -> None:
    try:
        answer = _answer(mirror, ask)
    except MirrorError as error:
        answer = Answer(number=ask.number, error=str(error))
    except Exception as error:
        answer = Answer(number=ask.number, error=said(error))
    voice.say(msgspec.structs.replace(answer, came=mirror.take_came()))


def _answer(mirror: Mirror, ask: Ask) -> Answer:
    """Raises MirrorError."""
    if ask.what == "names":
        return Answer(number=ask.number, names=mirror.names())
    if ask.what == "verify":
        return Answer(number=ask.number, repaired=mirror.verify())
    outcome = mirror.sync(ask.models)
    return Answer(
        number=ask.number,
        changed=outcome.changed,
        unsettled=outcome.unsettled,
        problems=outcome.problems,
        repaired=outcome.repaired,
    )


def _triton_message() -> Any:
    from servolley.config import triton
    from servolley.front.grpc.messages import Messages

    return Messages.built().message(triton.MESSAGE)()


if __name__ == "__main__":
    sys.exit(main())
