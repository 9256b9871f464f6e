"""What the benchmark on a GPU has measured, the promises that it is held to, and its tables."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from benchmarks.report import Table, limits_table, page
from benchmarks.results import Limit

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.gpu_load import Seen
    from benchmarks.gpu_yardsticks import RawRun

#: The promises are about these; the first has rows of 602 KB.
_IMAGES: Final = "resnet50"
_ENCODER: Final = "bert"
#: At least so many connections are "saturation".
_MANY: Final = 64


@dataclass(frozen=True, slots=True)
class Variant:
    lanes: int
    graphs: bool


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


@dataclass(frozen=True, slots=True)
class Copies:
    """Bytes that the server copied in user space for one request alone."""

    model: str
    transport: str
    tensor_bytes: int
    copied_bytes: float


@dataclass(slots=True)
class Results:
    """rows: of the server. raw: ONNX Runtime in process, by model."""

    rows: list[Row] = field(default_factory=list)
    raw: dict[str, list[RawRun]] = field(default_factory=dict)
    copies: list[Copies] = field(default_factory=list)

    def best(self, model: str) -> RawRun:
        return max(self.raw[model], key=lambda run: run.items_per_second)

    def share(self, row: Row) -> float:
        return row.seen.per_second / self.best(row.model).items_per_second

    def limits(self) -> list[Limit]:
        """What was promised, as far as it was measured."""
        return [
            *(
                Limit(
                    f"{model} at saturation against ONNX Runtime in process", share, 0.95, "x", at_least=True
                )
                for model in (_IMAGES, _ENCODER)
                if (share := self._saturated(model)) is not None
            ),
            *(
                Limit(
                    f"{_IMAGES} alone over {transport}, above ONNX Runtime's run of one", added, bound, "us"
                )
                for transport, bound in (("http", 100), ("grpc", 100), ("cuda-shm", 60))
                if (added := self._added_us(transport)) is not None
            ),
            Limit(
                f"{_ENCODER} alone, with graphs against without",
                self._faster(_ENCODER, lambda row: row.connections == 1, Variant(2, True), Variant(2, False)),
                1,
                "x",
                at_least=True,
            ),
            Limit(
                f"{_IMAGES} at saturation, two lanes against one",
                self._faster(_IMAGES, _is_saturated, Variant(2, False), Variant(1, False)),
                1,
                "x",
                at_least=True,
            ),
        ]

    def _saturated(self, model: str) -> float | None:
        """Host tensors: what reaches the GPU over a socket."""
        shares = [
            self.share(row)
            for row in self.rows
            if row.model == model and _is_saturated(row) and row.transport in ("http", "grpc")
        ]
        return max(shares, default=None)

    def _added_us(self, transport: str) -> float | None:
        """With and without graphs are held against ONNX Runtime with and without; the better one counts."""
        added = [
            row.seen.p50_us - run.us
            for row in self.rows
            for run in self.raw.get(_IMAGES, ())
            if (row.model, row.transport, row.connections) == (_IMAGES, transport, 1)
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

    def render(self, markdown: bool, note: str) -> str:
        raw_rows = [
            [name, str(run.batch), _yes(run.graph), f"{run.items_per_second:,.0f}", f"{run.us:,.0f}"]
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
                f"{self.share(row):.0%}",
                f"{row.seen.p50_us:,.0f}",
                f"{row.seen.p99_us:,.0f}",
                f"{row.server_us:,.0f}",
                "-" if row.busy is None else f"{row.busy:.0%}",
            ]
            for row in self.rows
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
            limits_table(self.limits()),
        ]
        return page(tables, note, markdown)


def _is_saturated(row: Row) -> bool:
    return row.connections >= _MANY


def _yes(value: bool) -> str:
    return "yes" if value else "no"
