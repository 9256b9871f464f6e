"""The benchmark's results as one page, plain or as Markdown."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.results import Results, Spread, limits

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from benchmarks.cases import Case
    from benchmarks.results import Limit

_BESIDE = {"nginx": "nginx, constant answer of that size", "sink": "bare uvloop protocol, same bytes back"}


@dataclass(frozen=True, slots=True)
class Table:
    """A heading, column names and rows; the first column is text, the others are numbers."""

    heading: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]

    def plain(self) -> str:
        widths = [max(map(len, column)) for column in zip(self.columns, *self.rows, strict=True)]
        lines = [self.heading, ""]
        for row in (self.columns, ["-" * width for width in widths], *self.rows):
            cells = [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
            lines.append("  ".join([row[0].ljust(widths[0]), *cells]).rstrip())
        return "\n".join(lines)

    def markdown(self) -> str:
        lines = [f"**{self.heading}**", "", "| " + " | ".join(self.columns) + " |"]
        lines.append("|---|" + "---:|" * (len(self.columns) - 1))
        lines += ["| " + " | ".join(row) + " |" for row in self.rows]
        return "\n".join(lines)


def render(results: Results, cases: Sequence[Case], rounds: int, markdown: bool) -> str:
    """The whole page."""
    everything = (
        _served(results, cases),
        _in_process(results),
        _parsing(results),
        _core(results),
        limits_table(limits(results)),
    )
    note = (
        f"{processor()}, {os.cpu_count()} cores, loopback. Medians of {rounds} interleaved rounds, ± half "
        "of the distance between the extremes; ratios are medians of the rounds' ratios. Other processes had "
        f"{results.others():.0%} of the machine meanwhile (median)."
    )
    return page(everything, note, markdown)


def page(tables: Iterable[Table], note: str, markdown: bool) -> str:
    pages = [table.markdown() if markdown else table.plain() for table in tables if table.rows]
    return "\n\n".join([*pages, note])


def _served(results: Results, cases: Sequence[Case]) -> Table:
    rows: list[list[str]] = []
    titles = {case.name: case.title for case in cases}
    for case in titles:
        for subject in ("servolley", *_BESIDE):
            for connections in (1, 8, 64):
                key = (subject, case, connections)
                cpu = results.spread(key, lambda sample: sample.cpu_us)
                rate = results.spread(key, lambda sample: sample.per_second)
                p50 = results.spread(key, lambda sample: sample.p50_us)
                p99 = results.spread(key, lambda sample: sample.p99_us)
                if cpu is None or rate is None or p50 is None or p99 is None:
                    continue
                title = titles[case] if subject == "servolley" else f"  {_BESIDE[subject]}"
                cells = (spread_text(cpu), spread_text(rate), f"{p50.median:,.0f}", f"{p99.median:,.0f}")
                rows.append([title, str(connections), *cells])
    columns = ("served", "connections", "server CPU us/request", "requests/s", "p50 us", "p99 us")
    return Table("Served", columns, rows)


def _in_process(results: Results) -> Table:
    rows = [
        [
            model,
            str(run.batch),
            f"{run.callers} x {run.threads}",
            _digits(run.items_per_second),
            _digits(run.cpu_us_per_item),
        ]
        for model, runs in results.in_process.items()
        for run in runs
    ]
    columns = ("ONNX Runtime in process", "batch", "callers x threads", "items/s", "CPU us/item")
    return Table("ONNX Runtime called directly, best threads", columns, rows)


def _parsing(results: Results) -> Table:
    rows = [
        [name.removesuffix(" orjson"), spread_text(Spread.of(values))]
        for name, values in results.numbers.items()
        if name.endswith(" orjson")
    ]
    return Table("orjson.loads + numpy.asarray on the request's text", ("case", "CPU us/parse"), rows)


def _core(results: Results) -> Table:
    rows = [[name, _digits(speed / 1e6)] for name, speed in results.core.items()]
    return Table("core_bench: the codecs alone", ("line", "MB/s"), rows)


def limits_table(limits: Iterable[Limit]) -> Table:
    rows = []
    for limit in limits:
        if limit.measured is None:
            continue
        bound = f"{'>=' if limit.at_least else '<='} {limit.bound:g} {limit.unit}"
        promise = f"{limit.promise} ({limit.detail})" if limit.detail else limit.promise
        rows.append([promise, f"{limit.measured:.3g} {limit.unit}", bound, limit.verdict])
    return Table("Limits", ("promise", "measured", "limit", ""), rows)


def spread_text(value: Spread) -> str:
    if value.around is None or not value.median:
        return _digits(value.median)
    return f"{_digits(value.median)} ±{value.around / value.median:.0%}"


def _digits(value: float) -> str:
    return f"{value:,.2f}" if value < 100 else f"{value:,.0f}"


def processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()
