"""Trains, imports, serves and asks. Exit code 1: an answer is not scikit-learn's, or no clean shutdown."""

from __future__ import annotations

import argparse
import functools
import sys
from pathlib import Path
from typing import Any

import numpy as np

from servolley.demo.clients import (
    Connect,
    Labels,
    Rows,
    fire,
    tensorflow_serving_connection,
    tritonclient_connection,
)
from servolley.demo.server import ServerProcess

_MODEL = "digits"
_CONFIG = """\
# Optional: without this file the model is served and batched all the same.
[batching]
max_queue_delay_us = 500  # wait up to half a millisecond for company
"""


def say(text: str = "") -> None:
    print(text, flush=True)


def step(text: str) -> None:
    say(f"\n\033[1m{text}\033[0m" if sys.stdout.isatty() else f"\n{text}")


def train() -> tuple[Any, Rows, Rows, Labels]:
    """A fitted classifier, the rows it saw, the rows it did not see and their true labels."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split
    from sklearn.neural_network import MLPClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    rows, labels = load_digits(return_X_y=True)
    seen, held_out, seen_labels, held_out_labels = train_test_split(
        rows.astype(np.float32), labels, test_size=0.4, random_state=0, stratify=labels
    )
    classifier = make_pipeline(StandardScaler(), MLPClassifier((128,), max_iter=300, random_state=0))
    classifier.fit(seen, seen_labels)
    return classifier, seen, held_out, held_out_labels


def batch_sizes(server: ServerProcess) -> dict[int, int]:
    """Rows of a batch -> how many such batches have run."""
    statistics = server.get_json(f"/v2/models/{_MODEL}/stats")["model_stats"][0]["batch_stats"]
    return {int(entry["batch_size"]): int(entry["compute_infer"]["count"]) for entry in statistics}


def metrics(server: ServerProcess) -> dict[str, float]:
    """Series with its labels -> value, of everything at /metrics but histogram buckets."""
    samples = (
        line.rpartition(" ") for line in server.get("/metrics").splitlines() if line[:1] not in ("", "#")
    )
    return {series: float(value) for series, _, value in samples if "_bucket{" not in series}


def show_batches(before: dict[int, int], after: dict[int, int]) -> None:
    formed = {size: after[size] - before.get(size, 0) for size in sorted(after)}
    total = sum(formed.values())
    widest = max(formed.values(), default=0)
    for size, count in formed.items():
        if count:
            say(f"    {size:3} rows {count:6} batches  {'#' * max(1, round(40 * count / widest))}")
    rows = sum(size * count for size, count in formed.items())
    if total:
        say(f"    {rows} rows in {total} runs of the model: {rows / total:.1f} per run")


def ask_everything(
    server: ServerProcess, title: str, connect: Connect, rows: Rows, true: Labels, own: Labels, callers: int
) -> bool:
    """Sends every row, prints what came back; whether it is what scikit-learn says."""
    before = batch_sizes(server)
    volley = fire(connect, rows, callers)
    after = batch_sizes(server)
    accuracy, own_accuracy = (volley.labels == true).mean(), (own == true).mean()
    differing = int((volley.labels != own).sum())
    p50, p99 = np.percentile(volley.latencies_ms, [50, 99])
    step(f"{title}: {len(rows)} held-out digits, {callers} callers at once")
    say(f"  accuracy   {accuracy:.4%} (scikit-learn itself: {own_accuracy:.4%}; {differing} answers differ)")
    say(f"  speed      {len(rows) / volley.seconds:,.0f} requests/s, p50 {p50:.2f} ms, p99 {p99:.2f} ms")
    say("             (all callers are threads of this one Python process, which is what limits it)")
    say("  batches")
    show_batches(before, after)
    return differing == 0


def show_moved(before: dict[str, float], after: dict[str, float]) -> None:
    for series, value in after.items():
        moved = value - before.get(series, 0.0)
        if moved and _MODEL in series:
            say(f"  {series} {before.get(series, 0.0):g} -> {value:g}")


def command() -> str:
    """How to call the installed command from here."""
    installed = Path(sys.executable).parent / "servolley"
    here = Path.cwd()
    return str(installed.relative_to(here) if installed.is_relative_to(here) else installed)


def next_steps(repository: Path, row: Rows) -> None:
    pixels = ",".join(f"{pixel:g}" for pixel in row[0])
    step("What to try next")
    say(f"""  Serve it yourself:
    {command()} serve {repository}
  Ask it, in TensorFlow Serving's words:
    curl -d '{{"instances":[[{pixels}]]}}' http://localhost:8000/v1/models/{_MODEL}:predict
  Or in the Open Inference Protocol's:
    curl -d '{{"inputs":[{{"name":"input","datatype":"FP32","shape":[1,64],"data":[{pixels}]}}]}}' \\
      http://localhost:8000/v2/models/{_MODEL}/infer
  Look around:
    curl http://localhost:8000/v2/models/{_MODEL}
    curl http://localhost:8000/v2/models/{_MODEL}/stats
    curl http://localhost:8000/metrics
  Change {repository / _MODEL / "model.toml"} and serve again; without the delay nothing waits.""")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m servolley.demo", description=__doc__)
    parser.add_argument(
        "directory", nargs="?", type=Path, default=Path("servolley-demo"), help="where models go"
    )
    parser.add_argument("--callers", type=int, default=16, help="requests under way at once (16)")
    arguments = parser.parse_args()
    repository: Path = arguments.directory / "models"

    from servolley.importers.sklearn import import_sklearn

    step("Training a classifier on scikit-learn's 1,797 scanned digits")
    classifier, seen, held_out, true = train()
    own = classifier.predict(held_out)
    say(f"  {len(seen)} digits seen, {len(held_out)} held out; accuracy on those {(own == true).mean():.4%}")

    step("Importing it into a model repository")
    say(f"  {import_sklearn(classifier, seen, repository, _MODEL)}".replace("\n", "\n  "))
    (repository / _MODEL / "model.toml").write_text(_CONFIG)

    step("Starting the server")
    with ServerProcess(repository) as server:
        say(f"  servolley serve {repository} --port 0: ready on port {server.port}")
        before = metrics(server)
        answers_agree = True
        for title, connection in (
            ("Open Inference Protocol, tritonclient, binary tensors", tritonclient_connection),
            ("TensorFlow Serving REST, JSON", tensorflow_serving_connection),
        ):
            connect = functools.partial(connection, server.port, _MODEL)
            answers_agree &= ask_everything(server, title, connect, held_out, true, own, arguments.callers)
        step("What moved at /metrics (histogram buckets left out)")
        show_moved(before, metrics(server))
        step("Shutting down with SIGTERM")
        code = server.stop()
        say(f"  exit code {code}")
    if not answers_agree:
        say("\nFAILED: the server's answers are not scikit-learn's")
    if code != 0:
        say("\nFAILED: the shutdown was not clean:\n" + "\n".join(server.log[-20:]))
    if not answers_agree or code != 0:
        return 1
    next_steps(repository, held_out[:1])
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
