"""What a version was loaded from, so that a change on disk tells what it asks for: nothing, new batching over
the same weights, or the weights anew."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from servolley.config.model import ModelConfig
    from servolley.repository.layout import ModelOnDisk

# Of [runtime], what the weights do not depend on.
_NOT_THE_WEIGHTS = ("instances", "lanes", "fill_batches", "execution", "warmup")


@dataclass(frozen=True, slots=True)
class Content:
    """weights: the files and how they are loaded. serving: how requests reach them."""

    weights: tuple[object, object, dict[str, object], object]
    serving: object


def content_of(model: "ModelOnDisk", version: int) -> Content:
    runtime = msgspec.structs.asdict(model.config.runtime)
    serving = tuple(runtime.pop(key) for key in _NOT_THE_WEIGHTS)
    files = model.config.filename_by_compute_capability
    tensors = model.config.inputs, model.config.outputs
    labels = (model.config.class_labels, model.label_stamp) if model.config.class_labels else None
    return Content(
        (model.versions.get(version), model.stamps.get(version), runtime, files),
        (model.config.batching, serving, labels, tensors),
    )


def same_weights(one: Content | None, other: Content | None, *, gpus: bool = True) -> bool:
    """``gpus``: whether the runtime knows any; where it does not, device = "auto" is the CPU."""
    return one is not None and other is not None and _loaded(one, gpus) == _loaded(other, gpus)


def _loaded(content: Content, gpus: bool) -> object:
    file, stamp, runtime, files = content.weights
    return file, stamp, runtime if gpus or runtime["device"] != "auto" else runtime | {"device": "cpu"}, files


def weights_options(config: "ModelConfig") -> dict[str, object]:
    """What [runtime] says about how weights are loaded, other than what holds without it."""
    runtime = msgspec.structs.asdict(config.runtime)
    usual = msgspec.structs.asdict(type(config.runtime)())
    return {
        key: value for key, value in runtime.items() if key not in _NOT_THE_WEIGHTS and value != usual[key]
    }
