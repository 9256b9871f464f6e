"""Framework against ONNX Runtime, row by row.

Means and label agreement hide the failure that matters: a float32 scaler in front of a tree moves a few
values over split thresholds, and those rows are plainly wrong while 99.96 % of the labels still agree. So
what decides is the number of *rows* beyond tolerance.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Feeds = Mapping[str, Array]  # input name -> rows


@dataclass(frozen=True, slots=True)
class OutputReport:
    """How one output compares: labels by ``agreement`` (0..1), floats by their errors; the other is None."""

    name: str
    rows_beyond: int
    agreement: float | None = None
    max_abs_error: float | None = None
    p999_abs_error: float | None = None

    def __str__(self) -> str:
        if self.agreement is not None:
            return f"{self.name}: {self.agreement:.4%} of the labels agree, {self.rows_beyond} rows differ"
        return (
            f"{self.name}: max abs error {self.max_abs_error:.3g}, p99.9 {self.p999_abs_error:.3g}, "
            f"{self.rows_beyond} rows beyond tolerance"
        )


@dataclass(frozen=True, slots=True)
class ImportReport:
    """What was imported and how well it answers. ``path`` is None when the import was refused."""

    name: str
    version: int | None
    path: Path | None
    opsets: Mapping[str, int]
    ir_version: int
    rows: int
    batch_sizes: Sequence[int]
    tolerance: float
    rows_beyond: int  # distinct rows, at any batch size, any output
    outputs: Sequence[OutputReport]

    def __str__(self) -> str:
        where = f"version {self.version} at {self.path}" if self.path else "not imported"
        opsets = ", ".join(f"{domain or 'ai.onnx'} {version}" for domain, version in self.opsets.items())
        lines = [
            f"{self.name}: {where} (opsets {opsets}; IR {self.ir_version})",
            f"  verified on {self.rows} rows at batch sizes {', '.join(map(str, self.batch_sizes))}: "
            f"{self.rows_beyond} rows beyond tolerance {self.tolerance:g}",
        ]
        return "\n".join([*lines, *(f"  {output}" for output in self.outputs)])


class VerificationError(Exception):
    """The converted model does not answer like the framework; ``report`` says by how much, if known."""

    def __init__(self, message: str, report: ImportReport | None = None) -> None:
        super().__init__(message)
        self.report = report


def run_in_batches(run: Callable[[Feeds], list[Array]], feeds: Feeds, rows: int, batch: int) -> list[Array]:
    """All rows through ``run`` in batches of ``batch``, outputs joined again along dimension 0."""
    parts: list[list[Array]] = []
    for start in range(0, rows, batch):
        size = min(batch, rows - start)
        outputs = run({name: value[start : start + size] for name, value in feeds.items()})
        for index, output in enumerate(outputs):
            if output.ndim == 0 or output.shape[0] != size:
                raise VerificationError(
                    f"output {index} has shape {list(output.shape)} for {size} rows: dimension 0 is no batch"
                )
        parts.append(outputs)
    return [np.concatenate(column) for column in zip(*parts, strict=True)]


def compare(
    name: str, got: Array, want: Array, tolerance: float
) -> tuple[OutputReport, npt.NDArray[np.bool_]]:
    """One output against the framework's.

    got: [rows, ...] as ONNX Runtime answered. want: the same number of elements, any shape that starts with
    rows. A number is beyond tolerance when ``|got - want| > tolerance * max(1, |want|)``, or when only one of
    the two is NaN; equal infinities are equal. Returns the report and a mask [rows] of the rows beyond it.
    """
    rows = got.shape[0]
    if want.shape[:1] != (rows,) or want.size != got.size:
        raise VerificationError(
            f"output {name!r}: shape {list(got.shape)}, but the framework answers {list(want.shape)}"
        )
    got, want = got.reshape(rows, -1), want.reshape(rows, -1)
    if not np.issubdtype(got.dtype, np.floating):
        if got.dtype == object:
            got, want = got.astype(str), want.astype(str)
        beyond = np.any(got != want, axis=1)
        wrong = int(beyond.sum())
        return OutputReport(name, wrong, agreement=1 - wrong / rows), beyond
    got, want = got.astype(np.float64), want.astype(np.float64)
    same = (got == want) | (np.isnan(got) & np.isnan(want))
    with np.errstate(invalid="ignore"):
        error = np.where(same, 0.0, np.abs(got - want))
        beyond = np.any(~same & ~(error <= tolerance * np.maximum(1.0, np.abs(want))), axis=1)
    worst = np.where(np.isnan(error), np.inf, error)
    report = OutputReport(
        name,
        int(beyond.sum()),
        max_abs_error=float(worst.max(initial=0.0)),
        p999_abs_error=float(np.quantile(worst, 0.999, method="higher")) if worst.size else 0.0,
    )
    return report, beyond


def worst_of(reports: Sequence[OutputReport]) -> OutputReport:
    """The reports of one output at several batch sizes as one: the worst of each figure."""
    agreements = [report.agreement for report in reports if report.agreement is not None]
    maxima = [report.max_abs_error for report in reports if report.max_abs_error is not None]
    quantiles = [report.p999_abs_error for report in reports if report.p999_abs_error is not None]
    return OutputReport(
        reports[0].name,
        max(report.rows_beyond for report in reports),
        agreement=min(agreements, default=None),
        max_abs_error=max(maxima, default=None),
        p999_abs_error=max(quantiles, default=None),
    )
