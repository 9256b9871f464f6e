"""`servolley serve` as a child process, and what can be seen of it from outside. The tests import numpy and
client libraries; the server process shares nothing with them but its sockets."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

LISTENING = re.compile(r"https?://(?P<host>[0-9.]+):(?P<port>\d+)")
LISTENING_GRPC = re.compile(r"grpcs?://(?P<host>[0-9.]+):(?P<port>\d+)")

READY_TIMEOUT_S = 60.0
EXIT_TIMEOUT_S = 60.0


def wait_until(condition: Callable[[], object], timeout_s: float, what: str) -> None:
    """Polls until ``condition()`` is true. Raises AssertionError naming ``what`` after ``timeout_s``."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout_s} s: {what}"
        time.sleep(0.01)


@dataclass(frozen=True)
class Answer:
    """An HTTP answer; header names are lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> str:
        """The text of an error answer, after checking its form."""
        assert self.headers.get("content-type") == "application/json", self
        document = self.json()
        assert list(document) == ["error"], document
        assert isinstance(document["error"], str)
        assert document["error"], "an error without a text"
        return str(document["error"])


@dataclass(frozen=True)
class Vitals:
    """What a process holds."""

    resident_bytes: int
    descriptors: int
    threads: int


class Server:
    """A server on a free port of this machine; ``with`` kills it at the end if it still runs."""

    def __init__(
        self,
        *arguments: str | Path,
        cwd: Path | None = None,
        tls: ssl.SSLContext | None = None,
        host: str = "127.0.0.1",
    ) -> None:
        """``tls``: calls go over TLS, as this context says. ``host``: what to listen on; calls go to
        127.0.0.1."""
        self.tls = tls
        command = [sys.executable, "-m", "servolley", "serve", *map(str, arguments)]
        command += ["--host", host, "--port", "0"]
        # A user's shell has none of the interpreter settings of a test environment.
        environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
        self.started = time.monotonic()
        self.process = subprocess.Popen(
            command, cwd=cwd, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0
        )
        self.stdout: list[str] = []
        self.stderr: list[str] = []
        self.port = 0
        self._listening = threading.Event()
        self._readers = [
            threading.Thread(target=self._read, args=(stream, lines), daemon=True)
            for stream, lines in ((self.process.stdout, self.stdout), (self.process.stderr, self.stderr))
        ]
        for reader in self._readers:
            reader.start()

    def _read(self, stream: Any, lines: list[str]) -> None:
        for raw in stream:
            line = raw.decode("utf-8", "backslashreplace").rstrip("\n")
            lines.append(line)
            found = LISTENING.search(line)
            if found and not self._listening.is_set():
                self.port = int(found["port"])
                self._listening.set()

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def address(self) -> tuple[str, int]:
        return ("127.0.0.1", self.port)

    @property
    def url(self) -> str:
        """As the Triton clients want it."""
        return f"127.0.0.1:{self.port}"

    @property
    def grpc_port(self) -> int:
        """Of a server started with --grpc-port that is ready."""
        found = LISTENING_GRPC.search(self.log)
        assert found, f"the server printed no gRPC port:\n{self.log}"
        return int(found["port"])

    @property
    def log(self) -> str:
        return "\n".join([*self.stdout, *self.stderr])

    def wait_listening(self, timeout_s: float = READY_TIMEOUT_S) -> Self:
        deadline = time.monotonic() + timeout_s
        while not self._listening.wait(0.02):
            assert self.process.poll() is None, f"the server ended with {self.process.poll()}:\n{self.log}"
            assert time.monotonic() < deadline, f"the server printed no port:\n{self.log}"
        return self

    def wait_ready(self, timeout_s: float = READY_TIMEOUT_S) -> Self:
        self.wait_listening(timeout_s)
        deadline = time.monotonic() + timeout_s
        while self.get("/v2/health/ready").status != 200:
            assert time.monotonic() < deadline, f"the server did not become ready:\n{self.log}"
            assert " not ready: " not in self.log, f"the server will not become ready:\n{self.log}"
            time.sleep(0.005)
        return self

    def call(
        self,
        method: str,
        path: str,
        body: bytes | str | object = None,
        headers: Mapping[str, str] | None = None,
        timeout_s: float = 60.0,
    ) -> Answer:
        """One call on a connection of its own; a body that is neither bytes nor text is sent as JSON."""
        if body is not None and not isinstance(body, bytes | str):
            body = json.dumps(body)
        if isinstance(body, str):
            body = body.encode()
        connection = (
            http.client.HTTPConnection(*self.address, timeout=timeout_s)
            if self.tls is None
            else http.client.HTTPSConnection(*self.address, timeout=timeout_s, context=self.tls)
        )
        try:
            connection.request(method, path, body, dict(headers or {}))
            response = connection.getresponse()
            received = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, received, response.read())
        finally:
            connection.close()

    def get(self, path: str, headers: Mapping[str, str] | None = None) -> Answer:
        return self.call("GET", path, headers=headers)

    def post(
        self, path: str, body: bytes | str | object = b"", headers: Mapping[str, str] | None = None
    ) -> Answer:
        return self.call("POST", path, body, headers)

    def infer(self, model: str, inputs: list[dict[str, Any]], **rest: Any) -> Answer:
        """An Open Inference Protocol request in JSON."""
        return self.post(f"/v2/models/{model}/infer", {"inputs": inputs} | rest)

    def predict(self, model: str, body: bytes | str | object) -> Answer:
        """A TensorFlow Serving predict call."""
        return self.post(f"/v1/models/{model}:predict", body)

    def metric(self, name: str, **labels: str) -> float:
        """The sum of the samples of that name whose labels include ``labels``. The parser shows every
        counter's samples with "_total" behind, also those of Triton's names, which have none."""
        from prometheus_client.parser import text_string_to_metric_families

        page = self.get("/metrics")
        assert page.status == 200
        return sum(
            sample.value
            for family in text_string_to_metric_families(page.body.decode())
            for sample in family.samples
            if sample.name in {name, f"{name}_total"} and labels.items() <= sample.labels.items()
        )

    def statistics(self, model: str) -> dict[str, Any]:
        """Triton's statistics of the model's only version."""
        (entry,) = self.get(f"/v2/models/{model}/stats").json()["model_stats"]
        assert isinstance(entry, dict)
        return entry

    def vitals(self) -> Vitals:
        proc = Path(f"/proc/{self.pid}")
        status = dict(line.split(":", 1) for line in (proc / "status").read_text().splitlines())
        return Vitals(
            int(status["VmRSS"].split()[0]) << 10,
            sum(1 for _ in (proc / "fd").iterdir()),
            int(status["Threads"]),
        )

    def assert_alive(self) -> None:
        assert self.process.poll() is None, f"the server died with {self.process.poll()}:\n{self.log}"

    def assert_live(self) -> None:
        """The process runs and says so within a second; a busy machine may be asked twice."""
        took = []
        for _ in range(2):
            self.assert_alive()
            before = time.monotonic()
            assert self.call("GET", "/v2/health/live", timeout_s=10).status == 200
            took.append(time.monotonic() - before)
            if took[-1] < 1:
                return
        raise AssertionError(f"live took {took} s")

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def wait_exit(self, timeout_s: float = EXIT_TIMEOUT_S) -> int:
        code = self.process.wait(timeout_s)
        for reader in self._readers:
            reader.join(timeout_s)
        return code

    def stop(self, timeout_s: float = EXIT_TIMEOUT_S) -> int:
        """SIGTERM; the exit code."""
        if self.process.poll() is None:
            self.process.terminate()
        return self.wait_exit(timeout_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.wait_exit()
        for stream in (self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()
