"""What tells weights that have to be loaded anew from those that can stay."""

from __future__ import annotations

from pathlib import Path

import pytest

from servolley.config.model import Batching, ModelConfig, Runtime
from servolley.ort_library import knows_gpus
from servolley.repository.content import Content, content_of, same_weights
from servolley.repository.layout import ModelOnDisk


def content(device: str = "cpu", *, stamp: int = 1, threads: int = 0, batch: int = 8) -> Content:
    config = ModelConfig(
        runtime=Runtime(device=device, intra_op_threads=threads), batching=Batching(max_batch_size=batch)
    )
    model = ModelOnDisk("m", Path("m"), config, {1: Path("m/1/model.onnx")}, stamps={1: stamp})
    return content_of(model, 1)


def test_batching_is_none_of_the_weights() -> None:
    assert content() != content(batch=9)
    assert same_weights(content(), content(batch=9))
    assert not same_weights(content(), None)


@pytest.mark.parametrize("other", [content(stamp=2), content(threads=2), content("cuda:0")])
@pytest.mark.parametrize("gpus", [True, False])
def test_files_and_how_they_are_loaded_are(other: Content, gpus: bool) -> None:
    assert not same_weights(content(), other, gpus=gpus)


def test_a_runtime_without_gpus_has_one_device() -> None:
    """A config.pbtxt without an instance group takes a GPU if there is one."""
    assert same_weights(content("cpu"), content("auto"), gpus=False)
    assert same_weights(content("auto"), content("cpu"), gpus=False)
    assert not same_weights(content("cpu"), content("auto"), gpus=True)
    assert not same_weights(content("cuda:0"), content("auto"), gpus=False)


def test_a_runtime_that_knows_gpus_has_their_provider_beside_it(tmp_path: Path) -> None:
    library = tmp_path / "libonnxruntime.so.1"
    assert not knows_gpus(str(library))
    (tmp_path / "libonnxruntime_providers_cuda.so").touch()
    assert knows_gpus(str(library))
