"""What a run of the benchmark has measured, and the limits that it is held to."""

from __future__ import annotations

import statistics
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from benchmarks.load import Sample
    from benchmarks.yardsticks import OrtRun


@dataclass(frozen=True, slots=True)
class Spread:
    """The median of the rounds, and half of the distance between the extremes; None after a single round."""

    median: float
    around: float | None

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        ordered = sorted(values)
        around = (ordered[-1] - ordered[0]) / 2 if len(ordered) > 1 else None
        return cls(statistics.median(ordered), around)


@dataclass(frozen=True, slots=True)
class Limit:
    """One line of what was promised. `measured` None: this run did not look."""

    promise: str
    measured: float | None
    bound: float
    unit: str
    at_least: bool = False
    detail: str = ""

    @property
    def verdict(self) -> str:
        if self.measured is None:
            return "not measured"
        kept = self.measured >= self.bound if self.at_least else self.measured <= self.bound
        return "pass" if kept else "FAIL"


@dataclass(slots=True)
class Results:
    """Samples by (subject, case, connections), one per round; runs in process; single numbers by name.

    Ratios are taken within a round, where both sides saw the same neighbours on the machine; then the median.
    """

    samples: dict[tuple[str, str, int], list[Sample]] = field(default_factory=dict)
    in_process: dict[str, list[OrtRun]] = field(default_factory=dict)
    numbers: dict[str, list[float]] = field(default_factory=dict)
    core: dict[str, float] = field(default_factory=dict)  # core_bench: name -> bytes per second

    def add(self, subject: str, case: str, connections: int, sample: Sample) -> None:
        self.samples.setdefault((subject, case, connections), []).append(sample)

    def add_number(self, name: str, value: float) -> None:
        self.numbers.setdefault(name, []).append(value)

    def spread(self, key: tuple[str, str, int], pick: Callable[[Sample], float]) -> Spread | None:
        rounds = self.samples.get(key)
        return Spread.of(pick(sample) for sample in rounds) if rounds else None

    def number(self, name: str) -> float | None:
        values = self.numbers.get(name)
        return statistics.median(values) if values else None

    def others(self) -> float:
        """The part of the machine that others had while a sample was taken; the median."""
        shares = [sample.others for rounds in self.samples.values() for sample in rounds]
        return statistics.median(shares) if shares else 0.0

    def as_json(self) -> dict[str, Any]:
        return {
            "samples": [
                {
                    "subject": subject,
                    "case": case,
                    "connections": connections,
                    "rounds": [asdict(s) for s in rounds],
                }
                for (subject, case, connections), rounds in self.samples.items()
            ],
            "in_process": {name: [asdict(run) for run in runs] for name, runs in self.in_process.items()},
            "numbers": self.numbers,
            "core_bench_bytes_per_second": self.core,
            "limits": [{**asdict(limit), "verdict": limit.verdict} for limit in limits(self)],
        }


def _paired(
    left: list[float] | None, right: list[float] | None, how: Callable[[float, float], float]
) -> float | None:
    if not left or not right:
        return None
    return statistics.median(how(a, b) for a, b in zip(left, right, strict=False))


def limits(results: Results) -> list[Limit]:
    """Every promise about speed, size and start, with what this run measured."""

    def cpu(subject: str, case: str, connections: int) -> list[float]:
        return [sample.cpu_us for sample in results.samples.get((subject, case, connections), ())]

    def p50(subject: str, case: str, connections: int) -> list[float]:
        return [sample.p50_us for sample in results.samples.get((subject, case, connections), ())]

    def rate(case: str, connections: int) -> list[float]:
        return [sample.per_second for sample in results.samples.get(("servolley", case, connections), ())]

    def ratio(a: float, b: float) -> float:
        return a / b

    def difference(a: float, b: float) -> float:
        return a - b

    tiny = cpu("servolley", "tiny", 64)
    grpc, channel = cpu("servolley", "grpc", 64), cpu("servolley", "grpc_channel", 1)
    found = [
        Limit(
            "tiny, 64 connections: server CPU per request against nginx's constant answer",
            _paired(tiny, cpu("nginx", "tiny", 64), ratio),
            1.5,
            "x",
        ),
        Limit(
            "tiny, 64 connections: server CPU per request", statistics.median(tiny) if tiny else None, 9, "us"
        ),
        Limit(
            "tiny, 1 connection: p50 above nginx's",
            _paired(p50("servolley", "tiny", 1), p50("nginx", "tiny", 1), difference),
            15,
            "us",
        ),
        *(
            Limit(
                f"resnet50, {connections} connections: throughput against ONNX Runtime in process",
                _paired(rate("resnet50", connections), results.numbers.get(f"ceiling {connections}"), ratio),
                0.97,
                "x",
                at_least=True,
            )
            for connections in (8, 64)
        ),
        Limit(
            "mlp, 64 connections: server CPU per request above ONNX Runtime's in process, best batch",
            _paired(cpu("servolley", "mlp", 64), results.numbers.get("mlp in process"), difference),
            8,
            "us",
        ),
        *(
            Limit(
                f"602 KB identity, {connections} connections: server CPU per request against a bare protocol",
                _paired(
                    cpu("servolley", "identity", connections), cpu("sink", "identity", connections), ratio
                ),
                1.5,
                "x",
            )
            for connections in (1, 8, 64)
        ),
        Limit(
            "gRPC ModelInfer on tiny, 64 connections: server CPU per request",
            statistics.median(grpc) if grpc else None,
            11,
            "us",
        ),
        Limit(
            "gRPC ModelInfer on tiny, one connection of 64 streams: server CPU per request",
            statistics.median(channel) if channel else None,
            2.5,
            "us",
        ),
        Limit(
            "gRPC ModelInfer on tiny, 1 connection: p50 above HTTP's",
            _paired(p50("servolley", "grpc", 1), p50("servolley", "tiny", 1), difference),
            10,
            "us",
        ),
        Limit(
            "gRPC Predict on tiny, 64 connections: server CPU per request against ModelInfer's",
            _paired(cpu("servolley", "grpc_predict", 64), grpc, ratio),
            1.25,
            "x",
        ),
        *(
            Limit(
                f"602 KB identity over gRPC, {connections} connections: MB/s against HTTP's",
                _paired(rate("grpc_identity", connections), rate("identity_h2load", connections), ratio),
                0.8,
                "x",
                at_least=True,
            )
            for connections in (1, 8, 64)
        ),
        *(
            Limit(
                f"{case}, 1 connection: server CPU per request against orjson + numpy for the parsing alone",
                _paired(cpu("servolley", case, 1), results.numbers.get(f"{case} orjson"), ratio),
                0.25,
                "x",
            )
            for case in ("json_flat", "json_short", "json_nested")
        ),
    ]
    for kind, bound in (("parse_", 600), ("write_", 400)):
        floats = [
            (speed, name) for name, speed in results.core.items() if name.startswith(kind) and "fp32" in name
        ]
        slowest = min(floats, default=None)
        found.append(
            Limit(
                f"core_bench: the slowest FP32 {kind}* line",
                slowest[0] / 1e6 if slowest else None,
                bound,
                "MB/s",
                at_least=True,
                detail=slowest[1] if slowest else "",
            )
        )
    found.append(Limit("idle, tiny loaded: resident memory", results.number("idle MiB"), 90, "MiB"))
    found.append(Limit("from exec to ready, tiny", results.number("ready s"), 0.8, "s"))
    return found
