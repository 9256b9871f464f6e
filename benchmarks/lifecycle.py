"""What requests notice while models come and go: `./dev bench --lifecycle`.

The tiny model is asked at a constant 70 % of what the server can do, from outside and whatever becomes of the
answers: while nothing else happens, during hot swaps of the model, and while a large model is loaded and
unloaded beside it. Then the memory of a server that loads and unloads again and again.

At 70 % of a core a machine that becomes slower for a moment, as shared ones do, keeps up no longer, and a
queue of hundreds of milliseconds says so. So each event is an episode of its own: what a closed loop gets
right now, then quiet, the event and quiet again at 70 % of it. An event's p99 is set against the quiet of its
own episode, and the median of the episodes counts.
"""

from __future__ import annotations

import os
import re
import resource
import statistics
import time
import urllib.request
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Final

from benchmarks import servers
from benchmarks.cases import cases
from benchmarks.load import Request
from benchmarks.open_loop import Latencies, OpenLoop
from benchmarks.patience import Patience
from benchmarks.report import Table, limits_table, page, processor, spread_text
from benchmarks.results import Limit, Spread

import models as test_models

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    import onnx

CONNECTIONS: Final = 64
LOAD: Final = 0.7
LARGE_MB: Final = 100
CYCLED_MB: Final = 50
_QUICK_POLLS: Final = ("--poll-interval", "0.1")
_PATIENCE_S: Final = 60
_WARM_UP_S: Final = 0.5
_CAPACITY_S: Final = 1.0
_LOG_LOOK_S: Final = 0.005

QUIET, SWAPS, LOADS, UNLOADS, NGINX = "quiet", "swaps", "loads", "unloads", "nginx"


@dataclass(frozen=True, slots=True)
class Pace:
    """seconds: of quiet before and after an event. swaps: in the one such episode of a round. loads: episodes
    of a load and an unload in a round. cycles: of loading and unloading; settled: those before the first look
    at the memory."""

    rounds: int
    seconds: float
    swaps: int
    loads: int
    cycles: int
    settled: int = 3


FULL: Final = Pace(3, 3, 100, 5, 200)
QUICK: Final = Pace(1, 2, 20, 3, 30)


@dataclass(slots=True)
class Results:
    """episodes: what happened -> latencies. capacity: requests per second in a closed loop, one per episode.
    others: the part of the machine that belonged to neither server nor load, one per round.
    resident_mib: after the settled cycles and after each tenth of the others."""

    pace: Pace
    episodes: list[dict[str, Latencies]] = field(default_factory=list)
    capacity: list[float] = field(default_factory=list)
    others: list[float] = field(default_factory=list)
    resident_mib: list[float] = field(default_factory=list)

    def ratio(self, what: str) -> float | None:
        """p99 against the quiet p99 of the same episode; the median."""
        found = [seen[what].p99_us / seen[QUIET].p99_us for seen in self.episodes if what in seen]
        return statistics.median(found) if found else None

    def failed(self) -> int:
        return sum(latencies.failed for seen in self.episodes for latencies in seen.values())

    def limits(self) -> list[Limit]:
        growth = self.resident_mib[-1] / self.resident_mib[0] if self.resident_mib else None
        swaps, cycles = self.pace.swaps, self.pace.cycles
        return [
            Limit(f"{swaps} hot swaps: p99 against p99 without", self.ratio(SWAPS), 2, "x"),
            Limit(
                f"a {LARGE_MB} MB model loads: the other's p99 against p99 without", self.ratio(LOADS), 2, "x"
            ),
            Limit(
                f"a {LARGE_MB} MB model goes: the other's p99 against p99 without",
                self.ratio(UNLOADS),
                2,
                "x",
            ),
            Limit("failed requests in all of that", float(self.failed()), 0, ""),
            Limit(
                f"resident memory after {cycles} cycles of {CYCLED_MB} MB against {self.pace.settled} cycles",
                growth,
                1.1,
                "x",
            ),
        ]

    def as_json(self) -> dict[str, Any]:
        return {
            "episodes": [
                {what: asdict(latencies) for what, latencies in seen.items()} for seen in self.episodes
            ],
            "capacity_per_second": self.capacity,
            "others": self.others,
            "resident_mib": self.resident_mib,
            "limits": [{**asdict(limit), "verdict": limit.verdict} for limit in self.limits()],
        }

    def tables(self) -> list[Table]:
        titles = {
            NGINX: "nginx, constant answer: what the generator sees by itself",
            QUIET: "tiny, nothing else happens",
            SWAPS: f"tiny, during {self.pace.swaps} hot swaps of it",
            LOADS: f"tiny, while {LARGE_MB} MB load",
            UNLOADS: f"tiny, while {LARGE_MB} MB go",
        }
        columns: dict[str, Callable[[Latencies], float]] = {
            "requests/s": lambda seen: seen.per_second,
            "seconds": lambda seen: seen.seconds,
            "p50 us": lambda seen: seen.p50_us,
            "p99 us": lambda seen: seen.p99_us,
            "p99.9 us": lambda seen: seen.p999_us,
            "longest us": lambda seen: seen.max_us,
            "sent late, p99 us": lambda seen: seen.sent_late_p99_us,
            "failed": lambda seen: seen.failed,
        }
        rows = []
        for what, title in titles.items():
            seen = [each[what] for each in self.episodes if what in each]
            if seen:
                cells = (_cell(seen, pick) for pick in columns.values())
                rows.append([title, str(len(seen)), *cells])
        heading = (
            f"While models come and go: {CONNECTIONS} connections, {LOAD:.0%} of what a closed loop gets"
        )
        memory = [f"{mib:.0f}" for mib in self.resident_mib]
        memory_table = Table(
            f"Resident MiB while {CYCLED_MB} MB are loaded and unloaded {self.pace.cycles} times",
            ("cycles", *(str(cycle) for cycle in looks(self.pace))),
            [["resident MiB", *memory]] if memory else [],
        )
        under_load = Table(heading, ("asked at a constant rate", "episodes", *columns), rows)
        return [under_load, memory_table, limits_table(self.limits())]


def measure(pace: Pace, folder: Path, patience_s: float, say: Callable[[str], None]) -> Results:
    run = _Run(pace, folder, patience_s, say)
    run.everything()
    return run.results


def render(results: Results, markdown: bool) -> str:
    """The whole page."""
    note = (
        f"{processor()}, loopback, the server on one core and the load on another. Medians of the episodes, "
        "± half of the distance between the extremes; ratios are medians of the episodes' ratios. A latency "
        "counts from when a request was due. A closed loop got "
        f"{statistics.median(results.capacity):,.0f} requests/s. Other processes had "
        f"{statistics.median(results.others):.0%} of the machine meanwhile."
    )
    return page(results.tables(), note, markdown)


class _Run:
    """One run."""

    def __init__(self, pace: Pace, folder: Path, patience_s: float, say: Callable[[str], None]) -> None:
        self.results = Results(pace)
        self._pace = pace
        self._folder = folder
        self._say = say
        self._cores = servers.Cores.granted()
        self._patience = Patience(patience_s, len(self._cores.both))
        self._case = next(case for case in cases() if case.name == "tiny")
        assert isinstance(self._case.request, Request)
        self._request = self._case.request

    def everything(self) -> None:
        for turn in range(self._pace.rounds):
            self._say(f"round {turn + 1} of {self._pace.rounds}: under load")
            self._patience.wait_for_quiet()
            self._round(self._folder / f"round{turn}")
        self._say("memory")
        self._memory(self._folder / "memory")

    # ---- under load

    def _round(self, folder: Path) -> None:
        root = folder / "repository"
        test_models.save_model(root / "tiny", test_models.tiny())
        stage = Stage(root, folder / servers.SERVOLLEY_LOG)
        with servers.servolley(root, folder, self._cores.server, *_QUICK_POLLS) as server:
            answer = self._request.send(server)
            self._case.check(answer)
            began, before = time.monotonic(), _not_ours(server)
            rate = self._episode(server, folder, lambda load: self._swap(load, stage))
            (stage.root / "large").mkdir()
            stage.prepare("large", 1, test_models.heavy(LARGE_MB))
            for _ in range(self._pace.loads):
                self._episode(server, folder, lambda load: self._come_and_go(load, stage))
            spent = (time.monotonic() - began) * (os.cpu_count() or 1)
            self.results.others.append((_not_ours(server) - before) / spent)
        with (
            servers.nginx(len(answer), folder, self._cores.server) as server,
            self._load(server, rate, folder) as load,
        ):
            self._let_be(load)
            self.results.episodes.append({NGINX: load.finish()[QUIET]})

    def _episode(self, server: servers.Server, folder: Path, event: Callable[[OpenLoop], None]) -> float:
        """Returns the constant rate, in requests per second."""
        with self._load(server, 0, folder) as load:
            self._let_be(load, _CAPACITY_S)
            capacity = load.finish()[QUIET].per_second
        rate = LOAD * capacity
        with self._load(server, rate, folder) as load:
            self._let_be(load)
            event(load)
            self._let_be(load)
            self.results.episodes.append(load.finish())
        self.results.capacity.append(capacity)
        return rate

    def _load(self, server: servers.Server, rate: float, folder: Path) -> OpenLoop:
        return OpenLoop(server, self._request, CONNECTIONS, rate, folder, self._cores.load)

    def _let_be(self, load: OpenLoop, seconds: float | None = None) -> None:
        time.sleep(_WARM_UP_S)
        with load.counting(QUIET):
            time.sleep(self._pace.seconds if seconds is None else seconds)

    def _swap(self, load: OpenLoop, stage: Stage) -> None:
        versions = range(2, 2 + self._pace.swaps)
        for version in versions:
            stage.prepare("tiny", version, test_models.tiny())
        time.sleep(_WARM_UP_S)
        with load.counting(SWAPS):
            for version in versions:
                stage.enter("tiny", version)
                stage.wait_for("available", "tiny", version)
                stage.wait_for("unloaded", "tiny", version - 1)

    def _come_and_go(self, load: OpenLoop, stage: Stage) -> None:
        with load.counting(LOADS):
            stage.enter("large", 1)
            stage.wait_for("available", "large", 1)
        time.sleep(_WARM_UP_S)
        with load.counting(UNLOADS):
            stage.leave("large", 1)
            stage.wait_for("unloaded", "large", 1)

    # ---- memory

    def _memory(self, folder: Path) -> None:
        root = folder / "repository"
        test_models.save_model(root / "cycled", test_models.heavy(CYCLED_MB))
        stage = Stage(root, folder / servers.SERVOLLEY_LOG)
        flags = ("--model-control-mode", "explicit")
        with servers.servolley(root, folder, self._cores.both, *flags) as server:
            for cycle in range(1, self._pace.cycles + 1):
                for verb in ("load", "unload"):
                    url = f"{server.url}/v2/repository/models/cycled/{verb}"
                    with urllib.request.urlopen(urllib.request.Request(url, b"{}"), timeout=_PATIENCE_S):
                        pass
                stage.wait_for("unloaded", "cycled", 1)
                if cycle in looks(self._pace):
                    self.results.resident_mib.append(servers.resident_mib(server.pid))


def _not_ours(server: servers.Server) -> float:
    """Processor seconds of this machine that neither the server, the load nor this process has used."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    ours = servers.cpu_seconds(server.pid) + time.process_time() + children.ru_utime + children.ru_stime
    return servers.machine_busy_seconds() - ours


class Stage:
    """A server's repository, where versions enter and leave by a rename, and its log, where they are seen to.
    Asking the server instead would be load of another kind."""

    def __init__(self, root: Path, log: Path) -> None:
        self.root = root
        self._log = log
        self._read = 0

    def prepare(self, name: str, version: int, model: onnx.ModelProto) -> None:
        hidden = self._hidden(name, version)
        hidden.mkdir()
        (hidden / "model.onnx").write_bytes(model.SerializeToString())
        (hidden / ".complete").touch()

    def enter(self, name: str, version: int) -> None:
        self._hidden(name, version).rename(self.root / name / str(version))

    def leave(self, name: str, version: int) -> None:
        (self.root / name / str(version)).rename(self._hidden(name, version))

    def wait_for(self, event: str, name: str, version: int) -> None:
        """The next such event. Raises TimeoutError."""
        line = re.compile(rf": {event} model={name} version={version}\b".encode())
        deadline = time.monotonic() + _PATIENCE_S
        while time.monotonic() < deadline:
            with self._log.open("rb") as log:
                log.seek(self._read)
                found = line.search(log.read())
            if found:
                self._read += found.end()
                return
            time.sleep(_LOG_LOOK_S)
        raise TimeoutError(f"{name} {version} was not {event} within {_PATIENCE_S} s")

    def _hidden(self, name: str, version: int) -> Path:
        return self.root / f".{name}-{version}"


def looks(pace: Pace) -> list[int]:
    """The cycles after which the memory is looked at."""
    step = max(1, pace.cycles // 10)
    return sorted({pace.settled, *range(step, pace.cycles + 1, step)})


def _cell(seen: Sequence[Latencies], pick: Callable[[Latencies], float]) -> str:
    return spread_text(Spread.of(pick(latencies) for latencies in seen))
