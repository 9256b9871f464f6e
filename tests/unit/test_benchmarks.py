"""The verdicts of the benchmarks, from samples that are made up: a promise that fails is seen to fail."""

from __future__ import annotations

from pathlib import Path

import pytest
from benchmarks import gpu_results, lifecycle
from benchmarks.gpu_load import Seen
from benchmarks.gpu_plan import Budget, Extent, Line, Variant
from benchmarks.gpu_results import Row
from benchmarks.gpu_yardsticks import RawRun, raw
from benchmarks.open_loop import Latencies

from models import tiny

PLAIN, GRAPHS, ONE_LANE = Variant(2, False), Variant(2, True), Variant(1, False)


def row(
    model: str, variant: Variant, transport: str, connections: int, per_second: float, p50_us: float = 500
) -> Row:
    return Row(model, variant, transport, connections, Seen(int(per_second), 1.0, p50_us, p50_us), 10.0, None)


def verdicts(results: gpu_results.Results) -> dict[str, str]:
    return {limit.promise: limit.verdict for limit in results.limits()}


@pytest.fixture
def measured() -> gpu_results.Results:
    """Everything that the promises are about, and every one of them kept."""
    return gpu_results.Results(
        rows=[
            row("resnet50", PLAIN, "http", 1, 900, 590),
            row("resnet50", PLAIN, "grpc", 1, 900, 595),
            row("resnet50", PLAIN, "cuda-shm", 1, 900, 555),
            row("resnet50", PLAIN, "http", 64, 4800),
            row("resnet50", ONE_LANE, "http", 64, 4000),
            row("bert", PLAIN, "http", 1, 500),
            row("bert", GRAPHS, "http", 1, 700),
            row("bert", PLAIN, "grpc", 256, 1950),
        ],
        raw={
            "resnet50": [RawRun(1, False, 2000, 500), RawRun(64, False, 5000, 12_800)],
            "bert": [RawRun(1, False, 500, 2000), RawRun(64, True, 2000, 32_000)],
        },
    )


def test_a_gpu_that_keeps_every_promise(measured: gpu_results.Results) -> None:
    assert set(verdicts(measured).values()) == {"pass"}
    assert len(measured.limits()) == 7
    assert "resnet50, cuda-shm" in measured.render(markdown=False, note="a GPU")


@pytest.mark.parametrize(
    ("index", "instead", "promise"),
    [
        (0, row("resnet50", PLAIN, "http", 1, 900, 601), "resnet50 alone over http"),
        (1, row("resnet50", PLAIN, "grpc", 1, 900, 601), "resnet50 alone over grpc"),
        (2, row("resnet50", PLAIN, "cuda-shm", 1, 900, 561), "resnet50 alone over cuda-shm"),
        (3, row("resnet50", PLAIN, "http", 64, 4700), "resnet50 at saturation against"),
        (4, row("resnet50", ONE_LANE, "http", 64, 4900), "resnet50 at saturation, two lanes"),
        (6, row("bert", GRAPHS, "http", 1, 499), "bert alone, with graphs"),
        (7, row("bert", PLAIN, "grpc", 256, 1800), "bert at saturation against"),
    ],
)
def test_a_gpu_that_misses_one(measured: gpu_results.Results, index: int, instead: Row, promise: str) -> None:
    measured.rows[index] = instead
    failed = [name for name, verdict in verdicts(measured).items() if verdict == "FAIL"]
    assert len(failed) == 1
    assert failed[0].startswith(promise)


def test_graphs_are_held_against_graphs(measured: gpu_results.Results) -> None:
    measured.raw["resnet50"].append(RawRun(1, True, 2500, 400))
    measured.rows[0] = row("resnet50", GRAPHS, "http", 1, 900, 520)
    assert next(
        limit.measured for limit in measured.limits() if "alone over http" in limit.promise
    ) == pytest.approx(120)


def test_what_was_not_measured_is_no_promise_kept() -> None:
    nothing = gpu_results.Results(rows=[row("tiny", Variant(0, False), "http", 64, 1e5)])
    assert set(verdicts(nothing).values()) == {"not measured"}


def test_what_is_missing_takes_nothing_else_with_it(measured: gpu_results.Results) -> None:
    del measured.raw["bert"]
    measured.failed.append(("bert: ONNX Runtime in process", "Traceback\n  no such kernel\n"))
    measured.skipped.append("tiny, lanes 1, graphs no: 2 lines")
    assert measured.best("bert") is None
    assert measured.share(measured.rows[5]) is None
    kept = verdicts(measured)
    assert "bert at saturation against ONNX Runtime in process" not in kept
    assert kept["resnet50 at saturation against ONNX Runtime in process"] == "pass"
    page = measured.render(markdown=True, note="a GPU")
    assert "| bert: ONNX Runtime in process | Traceback ... no such kernel |" in page
    assert "tiny, lanes 1, graphs no: 2 lines" in page
    assert gpu_results.Results().render(markdown=False, note="nothing").endswith("nothing")


def test_the_better_of_two_sets_of_options_is_the_yardstick(measured: gpu_results.Results) -> None:
    measured.raw["resnet50"].append(RawRun(64, False, 6000, 10_000, own_options=True))
    best = measured.best("resnet50")
    assert best is not None
    assert best.items_per_second == 6000
    assert "resnet50, its own options" in measured.render(markdown=False, note="")


def test_one_yardstick_that_fails_is_told_after_the_others(tmp_path: Path) -> None:
    (tmp_path / "tiny.onnx").write_bytes(tiny().SerializeToString())
    runs = raw(tmp_path / "tiny.onnx", "cpu", 0.01, [1, -2, 4])
    assert [next(runs).batch, next(runs).batch] == [1, 4]
    with pytest.raises(RuntimeError, match="batches of -2"):
        next(runs)


def test_a_budget_is_spent() -> None:
    seconds = [100.0]
    budget = Budget(60, lambda: seconds[0])
    assert budget.fits(60)
    seconds[0] += 50
    assert budget.left() == 10
    assert not budget.fits(10.5)
    assert Budget(None).fits(1e9)


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("on_gpu", [False, True])
@pytest.mark.parametrize("connections", [[1, 8, 64, 256], [4]])
def test_every_line_is_planned_once(on_gpu: bool, full: bool, connections: list[int]) -> None:
    extent = Extent(connections, on_gpu, full)
    for model in ("resnet50", "bert", "tiny"):
        planned = [
            (serving.variant, line)
            for servings in (extent.first(model), extent.rest(model))
            for serving in servings
            for line in serving.lines
        ]
        assert len(planned) == len(set(planned))
        every = {Line(transport, count) for transport in extent.transports() for count in connections}
        assert {line for variant, line in planned if variant == extent.variants()[0]} == every
        assert {variant for variant, _ in planned} == set(extent.variants())
        if full:
            assert len(planned) == len(extent.variants()) * len(every)


def test_what_the_promises_are_about_comes_first() -> None:
    extent = Extent([1, 8, 64, 256], on_gpu=True)
    rows = [
        row(serving.model, serving.variant, line.transport, line.connections, 1000)
        for model in ("resnet50", "bert")
        for serving in extent.first(model)
        for line in serving.lines
    ]
    yardsticks = {name: [RawRun(1, False, 1000, 500)] for name in ("resnet50", "bert")}
    assert "not measured" not in verdicts(gpu_results.Results(rows, yardsticks)).values()
    assert len(rows) < 12


def latencies(p99_us: float, failed: int = 0) -> Latencies:
    return Latencies(1000, failed, 1.0, 50.0, p99_us, p99_us, p99_us, 1.0)


def test_a_load_is_held_against_the_quiet_of_its_own_episode() -> None:
    """One episode in which the whole machine was slow says nothing; a load that is slow every time does."""
    results = lifecycle.Results(lifecycle.FULL)
    for quiet, load in ((1000, 1500), (90_000, 91_000), (1000, 50_000)):
        results.episodes.append({lifecycle.QUIET: latencies(quiet), lifecycle.LOADS: latencies(load)})
    assert results.ratio(lifecycle.LOADS) == pytest.approx(1.5)
    results.episodes += [{lifecycle.QUIET: latencies(1000), lifecycle.LOADS: latencies(9000)}] * 3
    assert results.ratio(lifecycle.LOADS) == pytest.approx(9)
    assert results.ratio(lifecycle.SWAPS) is None
    assert next(limit for limit in results.limits() if "loads" in limit.promise).verdict == "FAIL"
    results.episodes.append({lifecycle.QUIET: latencies(1000, failed=1)})
    assert next(limit for limit in results.limits() if "failed" in limit.promise).verdict == "FAIL"
