"""The benchmark: servolley beside nginx, a bare protocol, ONNX Runtime in process and orjson, in one run.

    ./dev bench [--quick] [--only tiny,mlp] [--markdown] [--json FILE]
    ./dev bench --lifecycle [--quick]: what requests notice while models come and go

The server has one core and wrk the other, so that "server CPU per request" is the server's alone; only
resnet50 gets both, because its batches are what the machine is for. What is compared is measured in the same
round, one right after the other, in alternating order.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

_ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(_ROOT), str(_ROOT / "tests")]

from benchmarks import lifecycle, servers, yardsticks  # noqa: E402
from benchmarks.cases import Case, cases, save_models  # noqa: E402
from benchmarks.h2load import GrpcRequest, measure_h2load  # noqa: E402
from benchmarks.load import Sample, measure  # noqa: E402
from benchmarks.patience import Patience  # noqa: E402
from benchmarks.report import render  # noqa: E402
from benchmarks.results import Results, limits  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Sequence

#: Batches that ONNX Runtime is tried with, and (threads, callers) for a machine's share of two cores.
_BATCHES = (1, 2, 4, 8, 16, 32, 64)
_BOTH_CORES = ((2, 1), (1, 2))
_LONGEST_S = 60
_BESIDE = {"tiny": "nginx", "identity": "sink"}


@dataclass(frozen=True, slots=True)
class Pace:
    """How long things take.

    volley_s, volleys: resnet50 is asked for so many seconds at least, and for so many answers to everybody.
    largest_image_batch: that is tried in process.
    starts: from exec to ready.
    """

    rounds: int
    seconds: int
    volley_s: int
    volleys: int
    in_process_s: float
    largest_image_batch: int
    starts: int


_FULL = Pace(3, 3, 4, 4, 1.0, 64, 5)
_QUICK = Pace(1, 1, 2, 3, 0.3, 4, 3)


class Bench:
    """One run: the servers that the chosen cases need, and what was measured of them."""

    def __init__(self, chosen: Sequence[Case], pace: Pace, patience_s: float, folder: Path) -> None:
        self.results = Results()
        self._cases = chosen
        self._pace = pace
        self._folder = folder
        self._cores = servers.Cores.granted()
        self._patience = Patience(patience_s, len(self._cores.both))
        self._models = save_models(folder / "models", ["tiny", *(case.model for case in chosen)])
        self._best_image_run = (1, *_BOTH_CORES[0])
        self._images_per_second = 1.0
        self._answer_bytes: dict[str, int] = {}

    def run(self) -> None:
        self._starts()
        self._in_process()
        with contextlib.ExitStack() as stack:
            subjects = {case.name: self._subjects(case, stack) for case in self._cases}
            for case in self._cases:
                for server in subjects[case.name]:
                    self._warm_up(case, server)
            for turn in range(self._pace.rounds):
                for case in self._cases:
                    _say(f"round {turn + 1} of {self._pace.rounds}: {case.name}")
                    self._round(case, subjects[case.name], turn)
        if any(case.json_keys for case in self._cases):
            self._core_bench()

    # ---- servers

    def _subjects(self, case: Case, stack: contextlib.ExitStack) -> list[servers.Server]:
        """servolley with the case's model, and what is measured beside it."""
        folder = self._folder / case.name
        repository = folder / "repository"
        repository.mkdir(parents=True)
        (repository / case.model).symlink_to(self._models[case.model].parent.parent)
        cores = self._cores.both if case.both_cores else self._cores.server
        ours = stack.enter_context(servers.servolley(repository, folder, cores))
        answer = case.request.send(ours)
        case.check(answer)
        self._answer_bytes[case.name] = len(answer)
        subjects = [ours]
        match _BESIDE.get(case.name):
            case "nginx":
                subjects.append(stack.enter_context(servers.nginx(len(answer), folder, self._cores.server)))
            case "sink":
                subjects.append(stack.enter_context(servers.sink(folder, self._cores.server)))
        return subjects

    def _warm_up(self, case: Case, server: servers.Server) -> None:
        """As many connections as will ever come, so that memory has been touched and "auto" has settled."""
        _say(f"{case.name}: warming up {server.name}")
        connections, seconds = max(case.connections), 1
        if case.both_cores:
            seconds = math.ceil(1.5 * connections / self._images_per_second)
        self._measure(case, server, connections, seconds)

    def _measure(self, case: Case, server: servers.Server, connections: int, seconds: int) -> Sample:
        cores = self._load_cores(case)
        if case.h2load or isinstance(case.request, GrpcRequest):
            size = self._answer_bytes[case.name]
            return measure_h2load(server, case.request, connections, seconds, self._folder, cores, size)
        return measure(server, case.request, connections, seconds, self._folder, cores)

    def _load_cores(self, case: Case) -> frozenset[int]:
        return self._cores.both if case.both_cores else self._cores.load

    # ---- one round

    def _round(self, case: Case, subjects: Sequence[servers.Server], turn: int) -> None:
        for connections in case.connections:
            seconds = self._volley_seconds(connections) if case.both_cores else self._pace.seconds
            for server in subjects if turn % 2 == 0 else reversed(subjects):
                self._patience.wait_for_quiet()
                sample = self._measure(case, server, connections, seconds)
                self.results.add(server.name, case.name, connections, sample)
                if case.both_cores:
                    # The batch that was under way when the load ended is still being computed.
                    servers.wait_until_idle(server)
                    self._ceiling(case, connections, sample)
        if case.json_keys:
            text = self._folder / "text.json"
            text.write_bytes(case.body)
            cost = yardsticks.orjson_and_numpy_us(
                text, case.json_keys, self._pace.in_process_s, self._cores.server
            )
            self.results.add_number(f"{case.name} orjson", cost)
        if case.name == "mlp":
            best = min(self.results.in_process["mlp"], key=lambda run: run.cpu_us_per_item)
            configuration = (best.batch, best.threads, best.callers)
            (again,) = yardsticks.ort_in_process(
                self._models["mlp"], [configuration], self._pace.in_process_s, self._cores.server
            )
            self.results.add_number("mlp in process", again.cpu_us_per_item)

    def _ceiling(self, case: Case, connections: int, sample: Sample) -> None:
        """What ONNX Runtime reaches in process while a companion uses what wrk has just used.

        wrk shares both cores with the server, so the model cannot have the whole machine in either case. The
        companion takes exactly wrk's processor time (its sending through the kernel included), in as many
        slices as there were answers. Reading the request, batching it and answering are the server's own
        affair: the ceiling runs on one fixed buffer and pays for none of that.
        """
        share = sample.load_cpu_us * sample.per_second / 1e6
        seconds = max(self._pace.in_process_s, self._volley_seconds(connections))
        with yardsticks.companion(share, 1 / sample.per_second, self._folder, self._cores.both):
            (run,) = yardsticks.ort_in_process(
                self._models[case.model], [self._best_image_run], seconds, self._cores.both
            )
        self.results.add_number(f"ceiling {connections}", run.items_per_second)

    def _volley_seconds(self, connections: int) -> int:
        """Long enough for a few volleys of so many connections, at the rate that was seen in process."""
        wanted = math.ceil(self._pace.volleys * connections / self._images_per_second)
        return min(max(self._pace.volley_s, wanted), _LONGEST_S)

    # ---- once

    def _in_process(self) -> None:
        names = {case.name for case in self._cases}
        for name in ("tiny", "mlp"):
            if name in names:
                _say(f"{name}: ONNX Runtime in process")
                configurations = [(batch, 1, 1) for batch in _BATCHES]
                seconds = self._pace.in_process_s / 3
                self.results.in_process[name] = yardsticks.ort_in_process(
                    self._models[name], configurations, seconds, self._cores.server
                )
        if "resnet50" in names:
            _say("resnet50: ONNX Runtime in process")
            batches = [batch for batch in _BATCHES if batch <= self._pace.largest_image_batch]
            configurations = [(batch, *workers) for batch in batches for workers in _BOTH_CORES]
            runs = yardsticks.ort_in_process(
                self._models["resnet50"], configurations, self._pace.in_process_s, self._cores.both
            )
            best = max(runs, key=lambda run: run.items_per_second)
            self._best_image_run = (best.batch, best.threads, best.callers)
            self._images_per_second = best.items_per_second
            self.results.in_process["resnet50"] = runs

    def _starts(self) -> None:
        """From exec to ready, and the memory of a server that has nothing to do, with the tiny model."""
        for _ in range(self._pace.starts):
            self._patience.wait_for_quiet()
            began = time.monotonic()
            with servers.servolley(self._models["tiny"], self._folder, self._cores.both) as server:
                self.results.add_number("ready s", time.monotonic() - began)
                time.sleep(0.5)
                self.results.add_number("idle MiB", servers.resident_mib(server.pid))

    def _core_bench(self) -> None:
        """The codec's own lines, where the benchmark binary has been built."""
        built = sorted(_ROOT.glob("build/*/core_bench"), key=lambda path: path.stat().st_mtime)
        if not built:
            return
        _say(f"core_bench: {built[-1].relative_to(_ROOT)}")
        log = self._folder / "core_bench.json"
        command = [str(built[-1]), f"--benchmark_out={log}", "--benchmark_out_format=json"]
        command += ["--benchmark_min_time=0.2"]
        with servers.running(command, self._folder / "core_bench.log", self._cores.server) as process:
            try:
                process.wait(120)
            except subprocess.TimeoutExpired:
                _say("core_bench took too long and was left out")
                return
        for line in json.loads(log.read_text())["benchmarks"]:
            if "bytes_per_second" in line and line.get("run_type", "iteration") == "iteration":
                self.results.core[line["name"]] = float(line["bytes_per_second"])


def _say(text: str) -> None:
    print(f"bench: {text}", file=sys.stderr, flush=True)


def _chosen(only: str | None) -> list[Case]:
    everything = cases()
    if only is None:
        return everything
    wanted = [name.strip() for name in only.split(",")]
    unknown = [name for name in wanted if not any(case.name.startswith(name) for case in everything)]
    if unknown:
        names = ", ".join(case.name for case in everything)
        raise SystemExit(f"bench: no case is called {', '.join(unknown)}; there are {names}")
    return [case for case in everything if case.name.startswith(tuple(wanted))]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="one short round: a look, not a result")
    parser.add_argument("--only", help="cases by (the beginning of their) name, with commas between")
    parser.add_argument("--lifecycle", action="store_true", help="loads and swaps under load, nothing else")
    parser.add_argument("--rounds", type=int, help="how often everything is measured (3)")
    parser.add_argument("--markdown", action="store_true", help="the tables as Markdown")
    parser.add_argument("--json", type=Path, metavar="FILE", help="every sample as well")
    parser.add_argument(
        "--patience",
        type=float,
        default=0,
        metavar="SECONDS",
        help="wait that long in all for a quiet machine",
    )
    given = parser.parse_args()
    # Ended from outside, it still stops what it has started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    if given.lifecycle:
        return _lifecycle(given)
    chosen = _chosen(given.only)
    pace = _QUICK if given.quick else _FULL
    if given.rounds:
        pace = replace(pace, rounds=given.rounds)
    with tempfile.TemporaryDirectory(prefix="servolley-bench-") as folder:
        bench = Bench(chosen, pace, given.patience, Path(folder))
        bench.run()
    print(render(bench.results, chosen, pace.rounds, given.markdown))
    if given.json:
        given.json.write_text(json.dumps(bench.results.as_json(), indent=1) + "\n")
    return 1 if any(limit.verdict == "FAIL" for limit in limits(bench.results)) else 0


def _lifecycle(given: argparse.Namespace) -> int:
    pace = lifecycle.QUICK if given.quick else lifecycle.FULL
    if given.rounds:
        pace = replace(pace, rounds=given.rounds)
    with tempfile.TemporaryDirectory(prefix="servolley-bench-") as folder:
        results = lifecycle.measure(pace, Path(folder), given.patience, _say)
    print(lifecycle.render(results, given.markdown))
    if given.json:
        given.json.write_text(json.dumps(results.as_json(), indent=1) + "\n")
    return 1 if any(limit.verdict == "FAIL" for limit in results.limits()) else 0


if __name__ == "__main__":
    raise SystemExit(main())
