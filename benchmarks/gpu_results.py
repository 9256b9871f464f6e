"""What the benchmark on a GPU has measured, the promises that it is held to, and its tables."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from benchmarks.gpu_plan import ENCODER, IMAGES, MANY, Variant
from benchmarks.report import Table, limits_table, page
from benchmarks.results import Limit

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.gpu_load import Seen
    from benchmarks.gpu_yardsticks import RawRun

#: Of an error's text, in the table.
_LINE: Final = 160


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table."""

    model: str
    variant: Variant
    transport: str
    connections: int
    seen: Seen
    server_us: float
    busy: float | None

    def __str__(self) -> str:
        """As it comes, on one line."""
        seen = (
            f"{self.seen.per_second:,.0f}/s, p50 {self.seen.p50_us:,.0f} us, p99 {self.seen.p99_us:,.0f} us"
        )
        return f"{self.model}, {self.transport}, {self.connections} at once, {self.variant}: {seen}"


@dataclass(frozen=True, slots=True)
class Copies:
    """Bytes that the server copied in user space for one request alone."""

    model: str
    transport: str
    tensor_bytes: int
    copied_bytes: float


@dataclass(slots=True)
class Results:
    """rows: of the server. raw: ONNX Runtime in process, by model. failed: (what, its error). skipped: what
    no longer fitted into the time. Any of them may lack anything: the rest is still worth a table."""

    rows: list[Row] = field(default_factory=list)
    raw: dict[str, list[RawRun]] = field(default_factory=dict)
    copies: list[Copies] = field(default_factory=list)
    failed: list[tuple[str, str]] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)

    def best(self, model: str) -> RawRun | None:
        return max(self.raw.get(model, ()), key=lambda run: run.items_per_second, default=None)

    def share(self, row: Row) -> float | None:
        best = self.best(row.model)
        return row.seen.per_second / best.items_per_second if best else None

    def limits(self) -> list[Limit]:
        """What was promised, as far as it was measured."""
        return [
            *(
                Limit(
                    f"{model} at saturation against ONNX Runtime in process", share, 0.95, "x", at_least=True
                )
                for model in (IMAGES, ENCODER)
                if (share := self._saturated(model)) is not None
            ),
            *(
                Limit(f"{IMAGES} alone over {transport}, above ONNX Runtime's run of one", added, bound, "us")
                for transport, bound in (("http", 100), ("grpc", 100), ("cuda-shm", 60))
                if (added := self._added_us(transport)) is not None
            ),
            Limit(
                f"{ENCODER} alone, with graphs against without",
                self._faster(ENCODER, lambda row: row.connections == 1, Variant(2, True), Variant(2, False)),
                1,
                "x",
                at_least=True,
            ),
            Limit(
                f"{IMAGES} at saturation, two lanes against one",
                self._faster(IMAGES, _is_saturated, Variant(2, False), Variant(1, False)),
                1,
                "x",
                at_least=True,
            ),
        ]

    def _saturated(self, model: str) -> float | None:
        """Host tensors: what reaches the GPU over a socket."""
        shares = [
            share
            for row in self.rows
            if row.model == model and _is_saturated(row) and row.transport in ("http", "grpc")
            if (share := self.share(row)) is not None
        ]
        return max(shares, default=None)

    def _added_us(self, transport: str) -> float | None:
        """With and without graphs are held against ONNX Runtime with and without; the better one counts."""
        added = [
            row.seen.p50_us - run.us
            for row in self.rows
            for run in self.raw.get(IMAGES, ())
            if (row.model, row.transport, row.connections) == (IMAGES, transport, 1)
            and (run.batch, run.graph) == (1, row.variant.graphs)
            and row.variant.lanes
        ]
        return min(added, default=None)

    def _faster(self, model: str, which: Callable[[Row], bool], this: Variant, than: Variant) -> float | None:
        """Items per second over HTTP, one variant against the other, at the same number of connections."""
        rates = {
            (row.variant, row.connections): row.seen.per_second
            for row in self.rows
            if row.model == model and row.transport == "http" and which(row)
        }
        ratios = [
            rate / rates[than, connections]
            for (variant, connections), rate in rates.items()
            if variant == this and (than, connections) in rates
        ]
        return max(ratios, default=None)

    def _in_order(self) -> list[Row]:
        """As they are read; they were measured in the order of what they are worth."""
        models = list(dict.fromkeys(row.model for row in self.rows))
        transports = ["http", "grpc", "cuda-shm"]
        return sorted(
            self.rows,
            key=lambda row: (
                models.index(row.model),
                -row.variant.lanes,
                row.variant.graphs,
                transports.index(row.transport),
                row.connections,
            ),
        )

    def render(self, markdown: bool, note: str) -> str:
        raw_rows = [
            [
                name + (", its own options" if run.own_options else ""),
                str(run.batch),
                _yes(run.graph),
                f"{run.items_per_second:,.0f}",
                f"{run.us:,.0f}",
            ]
            for name, runs in self.raw.items()
            for run in runs
        ]
        rows = [
            [
                f"{row.model}, {row.transport}",
                str(row.variant.lanes or "-"),
                _yes(row.variant.graphs),
                str(row.connections),
                f"{row.seen.per_second:,.0f}",
                _percent(self.share(row)),
                f"{row.seen.p50_us:,.0f}",
                f"{row.seen.p99_us:,.0f}",
                f"{row.server_us:,.0f}",
                _percent(row.busy),
            ]
            for row in self._in_order()
        ]
        columns = ["served", "lanes", "graphs", "at once", "items/s", "share"]
        columns += ["p50 us", "p99 us", "server CPU us", "GPU busy"]
        copies = [
            [
                f"{count.model}, {count.transport}",
                f"{count.tensor_bytes:,}",
                f"{count.copied_bytes:,.0f}",
                f"{count.copied_bytes / count.tensor_bytes:.2f}",
            ]
            for count in self.copies
        ]
        tables = [
            Table("ONNX Runtime in process", ("model", "batch", "graph", "items/s", "us/batch"), raw_rows),
            Table("servolley over loopback, one item a request", columns, rows),
            Table("Copied in user space", ("served", "tensor bytes", "bytes/request", "host copies"), copies),
            Table("Failed", ("what", "error"), [[what, _ends(error)] for what, error in self.failed]),
            Table("Skipped: no time left", ("what",), [[what] for what in self.skipped]),
            limits_table(self.limits()),
        ]
        return page(tables, note, markdown)


def _is_saturated(row: Row) -> bool:
    return row.connections >= MANY


def _ends(error: str) -> str:
    """Its first line, and the last of a log that speaks of an error: what was tried, and why it failed."""
    first, *more = [line.strip() for line in error.strip().splitlines()] or ["no message"]
    why = next((line for line in reversed(more) if "error" in line.lower()), more[-1] if more else "")
    return f"{first[:_LINE]} ... {why[-_LINE:]}" if why else first[:_LINE]


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.0%}"


def _yes(value: bool) -> str:
    return "yes" if value else "no"
