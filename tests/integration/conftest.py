"""Servers for the integration tests: one for all that only ask, a factory for those that need their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import models
from integration.hostile import survives
from integration.server_process import Server

if TYPE_CHECKING:
    import onnx

LABELS = ["zero", "one", "two", "three", "four", "five", "six", "seven"]

#: What the shared server serves: everything that is quick and not about one test only.
SHARED_MODELS: Mapping[str, Callable[[], onnx.ModelProto]] = {
    name: models.MODELS[name]
    for name in (
        "tiny",
        "mlp",
        *(f"identity_{datatype.lower()}" for datatype in models.DTYPES),
        "identity_large",
        "identity_pair",
        "half_plus_two",
        "two_inputs",
        "scalar",
        "fixed_batch",
        "nonzero",
        "expand",
        "sequence_first",
        "misnamed_output",
        "row_sums",
        "picky",
        "passthrough",
        "unknown_rank",
    )
}

ServerFactory = Callable[..., Server]


@pytest.fixture(scope="session", autouse=True)
def state_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where servers leave what they have decided; not among the user's files."""
    home = tmp_path_factory.mktemp("state")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(home))
        yield home


@pytest.fixture(scope="session")
def shared_repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = models.save_repository(
        tmp_path_factory.mktemp("shared") / "models", {name: build() for name, build in SHARED_MODELS.items()}
    )
    models.save_repository(
        root,
        {
            "two_versions": {3: models.half_plus_two(), 7: models.half_plus_two()},
            "labelled": models.identity("FP32", ("batch", 8)),
        },
    )
    (root / "two_versions" / "model.toml").write_text(
        "[versions]\nall = true\nlabels = { stable = 3, canary = 7 }\n"
    )
    (root / "labelled" / "labels.txt").write_text("\n".join(LABELS))
    (root / "labelled" / "model.toml").write_text('[class_labels]\nOUTPUT0 = "labels.txt"\n')
    return root


@pytest.fixture(scope="session")
def server(shared_repository: Path) -> Iterator[Server]:
    """The shared server. Whoever uses it leaves it as it was: alive."""
    with Server(shared_repository) as shared:
        yield shared.wait_ready()
        shared.assert_alive()
        assert shared.stop() == 0, shared.log
        assert "Traceback" not in shared.log
        assert "exception=" not in shared.log


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[ServerFactory]:
    """``serve(path_or_models, *flags, config="...")``: a server of one's own. A mapping is written as a model
    repository first, with None the settings say what is served; ``config`` is the text of a servolley.toml;
    ``wait=False`` returns at once. At the end every server that still runs must end well on SIGTERM."""
    running: list[Server] = []

    def start(
        what: Path | Mapping[str, onnx.ModelProto] | None,
        *flags: str | Path,
        config: str = "",
        wait: bool = True,
    ) -> Server:
        number = len(running)
        arguments: list[str | Path] = [*flags]
        if isinstance(what, Path):
            arguments.insert(0, what)
        elif what is not None:
            arguments.insert(0, models.save_repository(tmp_path / f"models{number}", what))
        if config:
            file = tmp_path / f"servolley{number}.toml"
            file.write_text(config)
            arguments += ["--config", file]
        server = Server(*arguments)
        running.append(server)
        return server.wait_ready() if wait else server

    try:
        yield start
        for server in running:
            if server.process.poll() is None:
                assert server.stop() == 0, server.log
            assert "Traceback" not in server.log, server.log
            assert "exception=" not in server.log, server.log
    finally:
        for server in running:
            server.__exit__(None, None, None)


@pytest.fixture
def hostile_conditions(server: Server) -> Iterator[None]:
    """The shared server survives the test; see hostile.py."""
    with survives(server):
        yield
