"""Models with a free first dimension: what is a batch, and what only looks like one."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

import models
from integration.conftest import ServerFactory
from integration.server_process import Server

VALUES = range(1, 9)


def sums(server: Server, model: str, value: float) -> list[list[float]]:
    answer = server.post(f"/v1/models/{model}:predict", {"instances": [[value] * 4] * 5})
    assert answer.status == 200, answer
    predictions: list[list[float]] = answer.json()["predictions"]
    return predictions


def test_clients_never_get_each_others_values(serve: ServerFactory, tmp_path: Path) -> None:
    root = models.save_repository(tmp_path / "r", {"sums": models.running_sums(), "tiny": models.tiny()})
    for name in ("sums", "tiny"):
        (root / name / "model.toml").write_text('[runtime]\nexecution = "threads"\n')
    server = serve(root)
    expected = {value: np.cumsum(np.full((5, 4), float(value)), axis=0).tolist() for value in VALUES}
    with ThreadPoolExecutor(len(VALUES)) as pool:
        for _ in range(20):
            for value, found in zip(VALUES, pool.map(lambda v: sums(server, "sums", v), VALUES), strict=True):
                assert found == expected[value]
    assert server.log.count("depends on the rows beside it") == 1
    assert server.get("/v2/models/sums/config").json()["max_batch_size"] == 0
    assert server.get("/v2/models/tiny/config").json()["max_batch_size"] > 1


def test_who_asks_for_batches_gets_them(serve: ServerFactory, tmp_path: Path) -> None:
    root = models.save_repository(tmp_path / "r", {"sums": models.running_sums()})
    (root / "sums" / "model.toml").write_text("[batching]\nmax_batch_size = 8\n")
    server = serve(root)
    assert server.get("/v2/models/sums/config").json()["max_batch_size"] == 8
    assert "depends on the rows" not in server.log
