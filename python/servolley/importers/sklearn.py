"""scikit-learn estimators and pipelines, through skl2onnx.

There is no command that reads a pickle or joblib file: unpickling runs whatever code the file holds. Call
``import_sklearn`` where the estimator was trained, or load the file yourself if you trust it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from servolley.importers.entry import write_entry
from servolley.importers.verify import (
    Array,
    Feeds,
    ImportReport,
    OutputReport,
    VerificationError,
    compare,
    run_in_batches,
    worst_of,
)

if TYPE_CHECKING:
    import onnx

_TARGET_OPSET: Final = {"": 18, "ai.onnx.ml": 3}  # 3 is what IsolationForest needs
_INPUT: Final = "input"


def import_sklearn(
    estimator: Any,
    sample: Any,
    repository: str | Path,
    name: str,
    version: int | None = None,
    *,
    tolerance: float = 1e-4,
    allow_rows_beyond: int = 0,
) -> ImportReport:
    """Converts a fitted estimator or pipeline, verifies it, and writes it into the model repository.

    sample: rows as the estimator's ``predict`` takes them, to infer input types and to verify with; a few
    hundred representative ones at least. A 2-D array becomes one input ``input`` [batch, features] (float32;
    integer, bool and string arrays keep their kind); a data frame one input [batch, 1] per column; a sequence
    of strings one input [batch, 1]. float64 is served as float32, while scikit-learn's answers come from the
    sample as it is.
    version: None = one above the highest there is.
    tolerance: of one number, see ``verify.compare``. allow_rows_beyond: how many rows may miss it.

    Raises VerificationError when more rows miss it (nothing is written; the error carries the report),
    ValueError for a sample or name that cannot be used, FileExistsError if the version exists, and what
    skl2onnx raises for an estimator that it cannot convert.
    """
    rows = len(sample)
    if rows == 0:
        raise ValueError("the sample has no rows")
    feeds = _as_served(sample)
    model = _convert(estimator, feeds)
    _repair(model)
    data: bytes = model.SerializeToString()
    batch_sizes = sorted({1, min(2, rows), rows})
    reports, beyond = _verify(estimator, sample, feeds, data, batch_sizes, tolerance)

    def report(path: Path | None) -> ImportReport:
        return ImportReport(
            name=name,
            version=int(path.parent.name) if path else version,
            path=path,
            opsets={opset.domain: opset.version for opset in model.opset_import},
            ir_version=model.ir_version,
            rows=rows,
            batch_sizes=batch_sizes,
            tolerance=tolerance,
            rows_beyond=beyond,
            outputs=reports,
        )

    if beyond > allow_rows_beyond:
        refused = report(None)
        raise VerificationError(
            f"{beyond} of {rows} rows miss the tolerance, {allow_rows_beyond} may: not imported\n{refused}",
            refused,
        )
    return report(write_entry(Path(repository), name, version, data))


def _as_served(sample: Any) -> Feeds:
    """The sample as ONNX inputs. The framework is asked with the sample itself: what rounding to float32
    changes is part of what serving changes."""
    if hasattr(sample, "columns"):  # a data frame, without importing the library that made it
        return {
            str(column): _served_values(np.asarray(sample[column])).reshape(-1, 1)
            for column in sample.columns
        }
    array = np.asarray(sample)
    values = _served_values(array)
    if values.ndim == 1 and values.dtype == object:
        return {_INPUT: values.reshape(-1, 1)}
    if values.ndim != 2:
        raise ValueError(f"the sample has {values.ndim} dimensions; rows of features have 2")
    return {_INPUT: values}


def _served_values(values: Array) -> Array:
    if values.dtype.kind in "OUS":
        if not all(isinstance(value, str) for value in values.ravel()):
            raise ValueError("a column of objects must hold strings only; give numbers a numeric dtype")
        return values.astype(object)
    if values.dtype.kind == "f":
        return values.astype(np.float32)
    if values.dtype.kind in "iu":
        return values.astype(np.int64)
    if values.dtype.kind == "b":
        return values
    raise ValueError(f"dtype {values.dtype} has no ONNX input type")


def _convert(estimator: Any, feeds: Feeds) -> onnx.ModelProto:
    from skl2onnx.common.data_types import (
        BooleanTensorType,
        FloatTensorType,
        Int64TensorType,
        StringTensorType,
    )
    from sklearn.base import is_classifier
    from sklearn.preprocessing import StandardScaler

    types = {"O": StringTensorType, "f": FloatTensorType, "i": Int64TensorType, "b": BooleanTensorType}
    initial = [(name, types[values.dtype.kind]([None, *values.shape[1:]])) for name, values in feeds.items()]
    # "div" divides as scikit-learn does. The default multiplies by a float32 reciprocal, which moves values
    # over the split thresholds of a tree behind the scaler.
    options: dict[Any, dict[str, Any]] = {StandardScaler: {"div": "div"}}
    if is_classifier(estimator):
        try:
            return _to_onnx(estimator, initial, {**options, id(estimator): {"zipmap": False}})
        except NameError:  # skl2onnx's word for an option that a converter lacks: LinearSVC never zips
            pass
    return _to_onnx(estimator, initial, options)


def _to_onnx(estimator: Any, initial_types: list[Any], options: dict[Any, dict[str, Any]]) -> onnx.ModelProto:
    from skl2onnx import to_onnx

    model: onnx.ModelProto = to_onnx(
        estimator, initial_types=initial_types, options=options, target_opset=_TARGET_OPSET
    )
    return model


def _repair(model: onnx.ModelProto) -> None:
    """Names the batch dimension, frees frozen label shapes, makes locales portable, checks."""
    import onnx.checker

    for value in (*model.graph.input, *model.graph.output):
        dims = value.type.tensor_type.shape.dim
        if not dims:
            raise VerificationError(f"{value.name!r} has no batch dimension")
        dims[0].dim_param = "batch"
    for node in model.graph.node:
        if node.op_type == "StringNormalizer":
            # The converter writes en_US.UTF-8, which small images do not have; the outputs are the same.
            for attribute in [attribute for attribute in node.attribute if attribute.name == "locale"]:
                node.attribute.remove(attribute)
            node.attribute.append(onnx.helper.make_attribute("locale", "C.UTF-8"))
    onnx.checker.check_model(model, full_check=True)


def _verify(
    estimator: Any, sample: Any, feeds: Feeds, model: bytes, batch_sizes: Sequence[int], tolerance: float
) -> tuple[list[OutputReport], int]:
    """The worst report per output over the batch sizes, and how many distinct rows missed the tolerance."""
    import onnxruntime as ort

    session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    rows = len(sample)
    missed = np.zeros(rows, dtype=np.bool_)
    reports: dict[str, list[OutputReport]] = {name: [] for name in names}
    want: list[Array] | None = None
    for batch in batch_sizes:
        got = run_in_batches(lambda part: list(session.run(None, dict(part))), feeds, rows, batch)
        if want is None:
            want = _framework_answers(estimator, sample, got)
        for name, output, expected in zip(names, got, want, strict=True):
            report, beyond = compare(name, output, expected, tolerance)
            reports[name].append(report)
            missed |= beyond
    return [worst_of(reports[name]) for name in names], int(missed.sum())


def _framework_answers(estimator: Any, sample: Any, got: Sequence[Array]) -> list[Array]:
    """What scikit-learn says, in the order of the converted model's outputs."""
    if not hasattr(estimator, "predict"):
        answers = [estimator.transform(sample)]
    else:
        answers = [np.asarray(estimator.predict(sample))]
    if len(got) > 1:
        for method in ("predict_proba", "decision_function", "transform"):
            if hasattr(estimator, method):
                answers.append(np.asarray(getattr(estimator, method)(sample)))
                break
    if len(answers) != len(got):
        raise VerificationError(f"the model has {len(got)} outputs, scikit-learn answers {len(answers)}")
    if answers[-1].ndim == 1 and got[-1].ndim == 2 and got[-1].shape[1] == 2:
        # A binary decision function: one signed score here, one score per class there. (The converter gives
        # SVC's two in the opposite order, which is refused as wrong; probability=True avoids it.)
        answers[-1] = np.stack([-answers[-1], answers[-1]], axis=1)
    return [answer.toarray() if hasattr(answer, "toarray") else np.asarray(answer) for answer in answers]
