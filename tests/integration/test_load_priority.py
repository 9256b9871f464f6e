"""What loads stands back behind what serves, and nothing that serves stands back afterwards."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

import models
from integration.conftest import ServerFactory
from integration.lifecycle import ALL_WAYS, QUICK, Askers, constant_of, put, repository, states
from integration.server_process import Server, wait_until


def nicenesses(server: Server) -> Counter[int]:
    """Of all threads, compared with the first's."""
    found: Counter[int] = Counter()
    first = 0
    for task in sorted(Path(f"/proc/{server.pid}/task").iterdir(), key=lambda path: int(path.name)):
        try:
            text = (task / "stat").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        niceness = int(text.rpartition(")")[2].split()[16])
        if int(task.name) == server.pid:
            first = niceness
        found[niceness - first] += 1
    return found


# Beside the niceness of the test itself, 19 in all is the most there is.
@pytest.mark.parametrize("niceness", [8, 4])
def test_the_loading_thread_and_no_other(serve: ServerFactory, tmp_path: Path, niceness: int) -> None:
    root = repository(tmp_path / "r", 1)
    (root / "m" / "model.toml").write_text("[runtime]\nintra_op_threads = 3\nexecution = 'threads'\n")
    config = f"[repository]\nload_niceness = {niceness}\n"
    server = serve(root, *QUICK, config=config)
    # The runtime's threads and the instance's, which the load has started, are like the others.
    assert nicenesses(server).keys() == {0}
    with Askers(server, *ALL_WAYS):
        put(root, "m", 2, models.slow_to_load(8, 2))
        wait_until(lambda: nicenesses(server)[niceness] == 1, 60, "a thread that loads")
        assert constant_of(server) == 1
        # On a machine that is busy with other things it stands back for long.
        wait_until(lambda: states(server).get(2) == "AVAILABLE", 120, "version 2 is available")
        assert constant_of(server) == 2
    assert nicenesses(server).keys() == {0}


def test_it_can_be_switched_off(serve: ServerFactory, tmp_path: Path) -> None:
    root = repository(tmp_path / "r", 1)
    server = serve(root, *QUICK, config="[repository]\nload_niceness = 0\n")
    seen: Counter[int] = Counter()
    put(root, "m", 2, models.slow_to_load(10, 2))

    def loaded() -> bool:
        seen.update(nicenesses(server))
        return " version=2 " in server.log and server.log.count("available") >= 2

    wait_until(loaded, 60, "version 2 is available")
    assert seen.keys() == {0}
