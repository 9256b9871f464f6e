"""`servolley serve` as a child process."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from pathlib import Path

_LISTENING = re.compile(r"http://[^\s\"]*?:(?P<port>\d+)")


class ServerProcess:
    """A server on a free port of this machine, as a context: ready inside, gone after."""

    def __init__(self, repository: Path, timeout_s: float = 30.0) -> None:
        command = [
            sys.executable,
            "-m",
            "servolley",
            "serve",
            str(repository),
            "--host",
            "127.0.0.1",
            "--port",
            "0",
        ]
        self.log: list[str] = []
        self.port = 0
        self._listening = threading.Event()
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        self._reader = threading.Thread(target=self._read_log, daemon=True)
        self._reader.start()
        try:
            self._wait_until_ready(time.monotonic() + timeout_s)
        except BaseException:
            self._process.kill()
            self._process.wait()
            raise

    def _read_log(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.log.append(line.rstrip())
            found = _LISTENING.search(line)
            if found and not self._listening.is_set():
                self.port = int(found["port"])
                self._listening.set()
        self._listening.set()  # the end of its output: whoever waits finds no port

    def _wait_until_ready(self, deadline: float) -> None:
        self._listening.wait(deadline - time.monotonic())
        while time.monotonic() < deadline and self.port and self._process.poll() is None:
            try:
                self.get("/v2/health/ready")
            except urllib.error.HTTPError:  # it listens, the model is still loading
                time.sleep(0.01)
            else:
                return
        raise RuntimeError("the server did not become ready:\n" + "\n".join(self.log))

    def get(self, path: str) -> str:
        """The body of a GET. Raises urllib.error.HTTPError for a status that is not a success."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=10) as answer:
            body: bytes = answer.read()
        return body.decode()

    def get_json(self, path: str) -> Any:
        return json.loads(self.get(path))

    def stop(self, timeout_s: float = 30.0) -> int:
        """SIGTERM; the exit code. Raises subprocess.TimeoutExpired if it does not end."""
        self._process.terminate()
        code = self._process.wait(timeout_s)
        self._reader.join(timeout_s)
        return code

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
