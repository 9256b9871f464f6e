"""Several repositories that are served as one."""

from __future__ import annotations

from pathlib import Path

import pytest

from servolley.config.model import ModelConfig, Runtime
from servolley.repository.layout import RepositoryError, Scanner
from servolley.repository.several import TWICE, SeveralRepositories


def put(path: Path, text: str = "") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.fixture
def several(tmp_path: Path) -> SeveralRepositories:
    for model in ("one/a/1", "one/both/1", "two/b/2", "two/both/3", "three/7"):
        put(tmp_path / model / "model.onnx")
    return SeveralRepositories([Scanner(tmp_path / name) for name in ("one", "two", "three")])


def test_all_of_their_models(several: SeveralRepositories, tmp_path: Path) -> None:
    """The third is one model's directory."""
    found = several.look()
    assert {name: (list(model.versions), model.error) for name, model in found.items()} == {
        "a": ([1], None),
        "b": ([2], None),
        "both": ([], TWICE),
        "three": ([7], None),
    }
    assert several.names() == ["a", "b", "both", "three"]
    assert [folder for folder, _ in several.folders()] == [
        tmp_path / name for name in ("one", "two", "three")
    ]


def test_one_at_a_time(several: SeveralRepositories) -> None:
    config = ModelConfig(runtime=Runtime(instances=3))
    found = several.look_at("b", config)
    assert found is not None
    assert (list(found.versions), found.config) == ([2], config)
    twice = several.look_at("both")
    assert twice is not None
    assert (twice.versions, twice.error) == ({}, TWICE)
    assert several.look_at("nobody") is None


def test_one_that_is_not_there(several: SeveralRepositories, tmp_path: Path) -> None:
    (tmp_path / "two").rename(tmp_path / "away")
    with pytest.raises(RepositoryError, match="two: no such file"):
        several.look()
