"""Servers as child processes: started on chosen cores, their processor time read, always stopped."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Sequence

ROOT: Final = Path(__file__).resolve().parent.parent
SERVOLLEY_LOG: Final = "servolley.log"
_LISTENING = re.compile(r"http://[^\s\"]*?:(?P<port>\d+)")
_NGINX_TEMPLATE = Path(__file__).with_name("nginx.conf.template")


@dataclass(frozen=True, slots=True)
class Cores:
    """Who runs where: the server alone on one core, the load generator on another."""

    server: frozenset[int]
    load: frozenset[int]
    both: frozenset[int]

    @classmethod
    def granted(cls) -> Cores:
        """The first two processors of this process. Raises SystemExit if there is only one."""
        first, *rest = sorted(os.sched_getaffinity(0))
        if not rest:
            raise SystemExit("bench: two cores are needed: one for the server, one for the load")
        return cls(frozenset({first}), frozenset({rest[0]}), frozenset({first, rest[0]}))


@dataclass(frozen=True, slots=True)
class Server:
    """A running server on this machine's loopback."""

    name: str
    pid: int
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


def cpu_seconds(pid: int) -> float:
    """User plus system time of a process and its children, all their threads.

    utime + stime of /proc/PID/stat count in hundredths of a second; the process clock is the same count in
    nanoseconds. Its number is what clock_getcpuclockid(3) would return.
    """
    return cpu_seconds_of(process_tree(pid))


def cpu_seconds_of(pids: Iterable[int]) -> float:
    """The same of processes that are known: a few microseconds of work."""
    total = 0.0
    for pid in pids:
        with contextlib.suppress(OSError):
            total += time.clock_gettime((~pid << 3) | 2)
    return total


def wait_until_idle(server: Server, timeout_s: float = 30) -> None:
    """Until what the server still computes for clients that have gone is done. RuntimeError if it goes on."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        before = cpu_seconds(server.pid)
        time.sleep(0.2)
        if cpu_seconds(server.pid) - before < 0.02:
            return
    raise RuntimeError(f"{server.name} still computes {timeout_s:.0f} s after its last request")


def resident_mib(pid: int) -> float:
    """VmRSS of a process and its children."""
    kib = 0
    for member in process_tree(pid):
        with contextlib.suppress(OSError):
            found = re.search(r"^VmRSS:\s+(\d+) kB", Path(f"/proc/{member}/status").read_text(), re.MULTILINE)
            kib += int(found[1]) if found else 0
    return kib / 1024


def machine_busy_seconds() -> float:
    """Processor time that this machine has spent on anything, or that the host has withheld from it."""
    fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    user, nice, system, _idle, _iowait, irq, softirq, steal = (int(field) for field in fields[:8])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def process_tree(pid: int) -> Iterator[int]:
    """A process and its children and theirs."""
    yield pid
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                yield from process_tree(int(child))


def environment() -> dict[str, str]:
    """Of a child that imports these benchmarks and the tests' models, and what this process imports."""
    paths = [str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")]
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextlib.contextmanager
def running(
    command: Sequence[str], log: Path, cores: Collection[int], stop_signal: int = signal.SIGTERM
) -> Iterator[subprocess.Popen[bytes]]:
    """A command on `cores`, its output in `log`; its whole process group is gone afterwards."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=lambda: os.sched_setaffinity(0, cores),
        )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, stop_signal)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            pass
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def wait_until_ready(
    process: subprocess.Popen[bytes], url: str, log: Path, timeout_s: float = 60, hopeless: str | None = None
) -> None:
    """Polls until `url` answers 200. Raises RuntimeError with the log's end; at once where the log says what
    is `hopeless`."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline and process.poll() is None:
        if hopeless and hopeless in log.read_text(errors="replace"):
            break
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except OSError:  # not listening yet, or HTTPError: not ready yet
            time.sleep(0.002)
    raise RuntimeError(f"{url} did not become ready:\n{log.read_text(errors='replace')[-2000:]}")


def _announced_port(process: subprocess.Popen[bytes], log: Path, timeout_s: float = 60) -> int:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline and process.poll() is None:
        found = _LISTENING.search(log.read_text(errors="replace"))
        if found:
            return int(found["port"])
        time.sleep(0.001)
    raise RuntimeError(f"no port was announced:\n{log.read_text(errors='replace')[-2000:]}")


@contextlib.contextmanager
def servolley(repository: Path, folder: Path, cores: Collection[int], *flags: str) -> Iterator[Server]:
    """`servolley serve` of a model repository or one model file, ready."""
    log = folder / SERVOLLEY_LOG
    options = ["--host", "127.0.0.1", "--port", "0", *flags]
    command = [sys.executable, "-m", "servolley", "serve", str(repository), *options]
    with running(command, log, cores) as process:
        server = Server("servolley", process.pid, _announced_port(process, log))
        wait_until_ready(process, server.url + "/v2/health/ready", log, hopeless=" not ready: ")
        yield server


@contextlib.contextmanager
def nginx(body_bytes: int, folder: Path, cores: Collection[int]) -> Iterator[Server]:
    """nginx as one process that answers everything with `body_bytes` constant bytes."""
    port = free_port()
    settings = folder / "nginx.conf"
    text = _NGINX_TEMPLATE.read_text()
    for key, value in {"FOLDER": str(folder), "PORT": str(port), "BODY": "x" * body_bytes}.items():
        text = text.replace(f"@{key}@", value)
    settings.write_text(text)
    # Debian keeps it where an ordinary user's PATH does not look.
    program = next((p for p in ("/usr/sbin/nginx", "/usr/local/sbin/nginx") if Path(p).exists()), "nginx")
    log = folder / "nginx.log"
    command = [program, "-c", str(settings), "-p", str(folder), "-e", str(folder / "nginx-errors.log")]
    with running(command, log, cores) as process:
        server = Server("nginx", process.pid, port)
        wait_until_ready(process, server.url + "/", log)
        yield server


@contextlib.contextmanager
def sink(folder: Path, cores: Collection[int]) -> Iterator[Server]:
    """The bare uvloop protocol of yardsticks.py that answers with the bytes it was sent."""
    log = folder / "sink.log"
    with running([sys.executable, "-m", "benchmarks.yardsticks", "sink"], log, cores) as process:
        yield Server("sink", process.pid, _announced_port(process, log))
