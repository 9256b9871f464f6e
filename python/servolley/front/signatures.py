"""What a classify or regress call asks of a loaded model: which feature fills which input, which outputs are
the answer. From [signatures] in model.toml, and from the model's names where that says nothing."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from servolley.config.model import Signature
from servolley.status import Code, StatusError, invalid_argument

if TYPE_CHECKING:
    from servolley._core import Servable, TensorSpec
    from servolley.config.model import ModelConfig, Value

DEFAULT_SIGNATURE = "serving_default"
_FLOATING = {"DT_FLOAT", "DT_DOUBLE"}


class Method(Enum):
    """TensorFlow Serving's methods on examples."""

    CLASSIFY = "classify"
    REGRESS = "regress"

    @property
    def full_name(self) -> str:
        return f"tensorflow/serving/{self.value}"


@dataclass(frozen=True, slots=True)
class Source:
    """Where one input's rows come from. ``shape``: declared, -1 = free; None = no rank is declared."""

    input: str
    tf_dtype: str
    shape: tuple[int, ...] | None
    feature: str
    default: "tuple[Value, ...] | None"


@dataclass(frozen=True, slots=True)
class Plan:
    """One signature of one loaded version. Of a classification ``values`` are the scores; ``labels``: of the
    classes by their place, where no output has them."""

    signature: str
    method: Method
    sources: tuple[Source, ...]
    values: str | None
    classes: str | None = None
    labels: tuple[str, ...] = ()

    @property
    def outputs(self) -> list[str]:
        return [name for name in (self.values, self.classes) if name is not None]


def plan(servable: "Servable", config: "ModelConfig", signature: str, method: Method) -> Plan:
    """``signature``: empty = the default one, which every model has. Raises StatusError."""
    name = signature or DEFAULT_SIGNATURE
    settings = config.signatures.get(name)
    if settings is None:
        if name != DEFAULT_SIGNATURE:
            raise invalid_argument(f"No signature was found with the name: {name[:100]}")
        settings = Signature(method=method.value)
    elif settings.method != method.value:
        raise invalid_argument(
            f"Expected {method.value} signature method_name to be {method.full_name}. "
            f"Was: {Method(settings.method).full_name}"
        )
    sources = _sources(servable, settings)
    outputs = {spec.name: spec for spec in servable.outputs}
    if method is Method.REGRESS:
        return Plan(name, method, sources, _values(outputs, settings.value, "outputs"))
    classes = settings.classes
    if classes is None and "classes" in outputs:
        classes = "classes"
    if classes is not None:
        _known(outputs, classes)
    # With classes alone an answer has no scores, as in TensorFlow Serving.
    wants_scores = settings.scores is not None or classes is None or "scores" in outputs
    scores = _values(outputs, settings.scores, "scores") if wants_scores else None
    labels = tuple(outputs[scores].labels) if scores is not None and classes is None else ()
    return Plan(name, method, sources, scores, classes, labels)


def _sources(servable: "Servable", settings: Signature) -> tuple[Source, ...]:
    inputs = servable.inputs
    for name in settings.features:
        if all(spec.name != name for spec in inputs):
            raise _misconfigured(f"'features' names an unknown input '{name}'")
    sources = []
    for spec in inputs:
        feature = settings.features.get(spec.name, spec.name)
        default = settings.defaults.get(feature)
        sources.append(
            Source(
                spec.name,
                spec.tf_dtype,
                tuple(spec.shape) if spec.rank_known else None,
                feature,
                tuple(default) if isinstance(default, list) else None if default is None else (default,),
            )
        )
    return tuple(sources)


def _values(outputs: "Mapping[str, TensorSpec]", configured: str | None, usual: str) -> str:
    """The output with the numbers."""
    name = configured
    if name is None and usual in outputs:
        name = usual
    if name is None:
        floating = [spec.name for spec in outputs.values() if spec.tf_dtype in _FLOATING]
        if len(floating) != 1:
            raise invalid_argument(
                "the model does not say which output is the answer: [signatures] in its model.toml can"
            )
        name = floating[0]
    if _known(outputs, name).tf_dtype not in _FLOATING:
        raise invalid_argument(f"output '{name}' must be FP32 or FP64 for classify and regress")
    return name


def _known(outputs: "Mapping[str, TensorSpec]", name: str) -> "TensorSpec":
    if name not in outputs:
        raise _misconfigured(f"it names an unknown output '{name}'")
    return outputs[name]


def _misconfigured(what: str) -> StatusError:
    return StatusError(Code.FAILED_PRECONDITION, f"[signatures] of the model: {what}")
