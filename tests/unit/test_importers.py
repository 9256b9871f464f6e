"""Importing scikit-learn models: what is written answers like the estimator, and what does not is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits, load_iris
from sklearn.ensemble import GradientBoostingRegressor, IsolationForest, RandomForestClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

from servolley.importers.entry import next_version, write_entry
from servolley.importers.sklearn import import_sklearn
from servolley.importers.verify import VerificationError, compare, run_in_batches


def test_classifier_becomes_an_entry_that_answers_like_it(tmp_path: Path) -> None:
    rows, labels = load_iris(return_X_y=True)
    estimator = make_pipeline(StandardScaler(), LogisticRegression()).fit(rows, labels)
    report = import_sklearn(estimator, rows, tmp_path, "iris")
    assert report.path == tmp_path / "iris" / "1" / "model.onnx"
    assert (report.version, report.rows_beyond, report.batch_sizes) == (1, 0, [1, 2, 150])
    session = ort.InferenceSession(report.path)
    label, probabilities = session.run(None, {"input": rows.astype(np.float32)})
    np.testing.assert_array_equal(label, estimator.predict(rows))
    np.testing.assert_allclose(probabilities, estimator.predict_proba(rows), atol=1e-5)


def test_every_input_and_output_has_a_named_free_batch_dimension(tmp_path: Path) -> None:
    rows, labels = load_iris(return_X_y=True)
    report = import_sklearn(LogisticRegression(max_iter=500).fit(rows, labels), rows, tmp_path, "iris")
    assert report.path is not None
    graph = onnx.load(report.path).graph
    first = [value.type.tensor_type.shape.dim[0].dim_param for value in (*graph.input, *graph.output)]
    assert first == ["batch"] * 3


@pytest.mark.parametrize(
    "estimator",
    [GradientBoostingRegressor(n_estimators=20, random_state=0), StandardScaler()],
    ids=["regressor", "transformer"],
)
def test_numeric_outputs_within_tolerance(tmp_path: Path, estimator: object) -> None:
    rows, target = load_diabetes(return_X_y=True)
    report = import_sklearn(estimator.fit(rows, target), rows, tmp_path, "m")  # type: ignore[attr-defined]
    assert report.rows_beyond == 0
    assert [output.agreement for output in report.outputs] == [None]


@pytest.mark.parametrize(
    "estimator",
    [LinearSVC(), IsolationForest(n_estimators=20, random_state=0)],
    ids=["linear-svc", "isolation"],
)
def test_binary_scores_match(tmp_path: Path, estimator: object) -> None:
    rows, target = load_breast_cancer(return_X_y=True)
    rows = StandardScaler().fit_transform(rows)
    report = import_sklearn(estimator.fit(rows, target), rows, tmp_path, "m")  # type: ignore[attr-defined]
    assert report.outputs[0].agreement == 1.0
    assert report.rows_beyond == 0


def test_text_pipeline_takes_strings_and_names_a_locale_that_small_images_have(tmp_path: Path) -> None:
    texts = ["red apple", "green pear", "blue sky", "red sky at night", "green apple"] * 4
    estimator = make_pipeline(TfidfVectorizer(stop_words=["at"]), LogisticRegression()).fit(
        texts, [0, 1, 2, 2, 0] * 4
    )
    report = import_sklearn(estimator, texts, tmp_path, "text")
    assert report.path is not None
    nodes = [node for node in onnx.load(report.path).graph.node if node.op_type == "StringNormalizer"]
    assert nodes
    assert {a.s for node in nodes for a in node.attribute if a.name == "locale"} == {b"C.UTF-8"}


def test_rows_moved_over_tree_thresholds_are_refused_unless_told(tmp_path: Path) -> None:
    # Every digit keeps its label, but float32 scaling moves pixels over split thresholds.
    rows, labels = load_digits(return_X_y=True)
    estimator = make_pipeline(StandardScaler(), RandomForestClassifier(20, random_state=0)).fit(rows, labels)
    with pytest.raises(VerificationError) as refused:
        import_sklearn(estimator, rows, tmp_path, "digits")
    report = refused.value.report
    assert report is not None
    assert report.path is None
    assert report.rows_beyond > 0
    assert list(tmp_path.iterdir()) == []
    accepted = import_sklearn(estimator, rows, tmp_path, "digits", allow_rows_beyond=report.rows_beyond)
    assert accepted.rows_beyond == report.rows_beyond
    assert "rows beyond tolerance" in str(accepted)


@pytest.mark.parametrize(
    "sample", [[], np.zeros((2, 3, 4)), np.zeros((2, 2), complex)], ids=["empty", "3d", "complex"]
)
def test_unusable_samples(tmp_path: Path, sample: object) -> None:
    rows, labels = load_iris(return_X_y=True)
    with pytest.raises(ValueError, match=r"no rows|dimensions|dtype"):
        import_sklearn(LogisticRegression(max_iter=500).fit(rows, labels), sample, tmp_path, "m")


def test_versions_count_up_and_are_never_overwritten(tmp_path: Path) -> None:
    assert write_entry(tmp_path, "m", None, b"one") == tmp_path / "m" / "1" / "model.onnx"
    assert write_entry(tmp_path, "m", 7, b"seven").read_bytes() == b"seven"
    assert next_version(tmp_path, "m") == 8
    with pytest.raises(FileExistsError):
        write_entry(tmp_path, "m", 7, b"other")
    assert (tmp_path / "m" / "7" / "model.onnx").read_bytes() == b"seven"
    assert {path.name for path in tmp_path.iterdir()} == {"m"}  # nothing staged is left


@pytest.mark.parametrize("name", ["", ".hidden", "..", "a/b", "-flag", "a\nb"])
def test_names_that_are_no_plain_folder_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="model name"):
        write_entry(tmp_path, name, None, b"")


def test_compare_counts_rows_and_knows_nan_and_infinity() -> None:
    want = np.array([[1.0, 100.0], [np.nan, np.inf], [0.0, 0.0], [1.0, 1.0], [1.0, 1.0]])
    got = np.array([[1.0, 100.005], [np.nan, np.inf], [0.0, 0.0002], [np.nan, 1.0], [1.0, np.inf]])
    report, beyond = compare("y", got.astype(np.float32), want, 1e-4)
    assert beyond.tolist() == [False, False, True, True, True]
    assert report.rows_beyond == 3
    assert report.max_abs_error == np.inf
    with pytest.raises(VerificationError, match="framework answers"):
        compare("y", got, want[:2], 1e-4)


def test_a_frozen_batch_dimension_is_found() -> None:
    with pytest.raises(VerificationError, match="no batch"):
        run_in_batches(lambda feeds: [np.zeros(1)], {"x": np.zeros((4, 2))}, 4, 2)
