"""The mirror's process, as the server sees it: started when it is needed, asked one thing at a time, ended
with the server, and started anew when it has died or says nothing any more."""

import asyncio
import contextlib
import logging
import os
import signal
import sys

import msgspec

from servolley.mirror.messages import Answer, Ask, Job
from servolley.mirror.names import MirrorError, without_credentials

# It gives a sign every second while it works, except while the remote side keeps it waiting.
SILENCE_S = 300.0
_LONGEST_LINE_BYTES = 64 << 20
_END_S = 5.0

# -P: what lies in the working directory is not imported.
COMMAND = (sys.executable, "-P", "-m", "servolley.mirror")

_log = logging.getLogger(__name__)


class MirrorProcess:
    """``command``: what is run; a test's own, perhaps."""

    def __init__(self, job: Job, command: tuple[str, ...] = COMMAND) -> None:
        self._job = job
        self._command = command
        self._process: asyncio.subprocess.Process | None = None
        self._stderr: asyncio.Task[None] | None = None
        self._turn = asyncio.Lock()
        self._number = 0
        self._closed = False
        self._starts = 0
        #: Bytes that have come from the remote side.
        self.came = 0

    @property
    def restarts(self) -> int:
        """How often it was started anew."""
        return max(0, self._starts - 1)

    async def sync(self, models: list[str] | None = None) -> Answer:
        """Raises MirrorError: nothing could be seen, or the process ended."""
        return await self._ask("sync", models)

    async def names(self) -> list[str]:
        """Raises MirrorError."""
        return (await self._ask("names")).names

    async def verify(self) -> None:
        """Takes away what is not as it was copied. Raises MirrorError."""
        await self._ask("verify")

    async def close(self) -> None:
        """What is asked from now on is refused."""
        self._closed = True
        await self._end()

    async def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            assert process.stdin is not None
            process.stdin.close()
            try:
                await asyncio.wait_for(process.wait(), _END_S)
            except TimeoutError:
                _kill(process)
                await process.wait()
        if self._stderr is not None:
            await asyncio.wait({self._stderr}, timeout=_END_S)
            self._stderr.cancel()
            self._stderr = None

    async def _ask(self, what: str, models: list[str] | None = None) -> Answer:
        async with self._turn:
            if self._closed:
                raise MirrorError("the server is ending")
            try:
                answer = await self._exchange(what, models)
            except (OSError, TimeoutError, EOFError, ValueError, RuntimeError) as error:
                # RuntimeError: uvloop's word for a pipe whose other end has gone.
                await self._give_up()
                raise MirrorError(f"the mirror's process: {str(error) or type(error).__name__}") from error
            except asyncio.CancelledError:
                await asyncio.shield(self._give_up())
                raise
        self.came += answer.came
        if answer.error is not None:
            raise MirrorError(answer.error)
        return answer

    async def _exchange(self, what: str, models: list[str] | None) -> Answer:
        process = self._process or await self._start()
        assert process.stdin is not None
        assert process.stdout is not None
        self._number += 1
        process.stdin.write(_line(Ask(number=self._number, what=what, models=models)))
        while True:
            async with asyncio.timeout(SILENCE_S):
                line = await process.stdout.readline()
            if not line:
                raise EOFError(f"it ended with {await process.wait()}")
            answer = msgspec.json.decode(line, type=Answer)
            if answer.number == self._number:
                return answer

    async def _start(self) -> asyncio.subprocess.Process:
        # A group of its own: what ends the server at the terminal is told to the server only.
        process = await asyncio.create_subprocess_exec(
            *self._command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            limit=_LONGEST_LINE_BYTES,
            start_new_session=True,
        )
        self._process = process
        self._starts += 1
        self._stderr = asyncio.create_task(_log_lines(process))
        assert process.stdin is not None
        process.stdin.write(_line(self._job))
        return process

    async def _give_up(self) -> None:
        if self._process is not None:
            _kill(self._process)
            await self._end()


def _line(message: msgspec.Struct) -> bytes:
    return msgspec.json.encode(message) + b"\n"


def _kill(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


async def _log_lines(process: asyncio.subprocess.Process) -> None:
    assert process.stderr is not None
    with contextlib.suppress(ValueError):
        async for line in process.stderr:
            text = line.decode("utf-8", "backslashreplace").rstrip()
            _log.warning("mirror: %s", without_credentials(text))
