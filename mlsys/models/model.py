"""A loaded model version: an estimator together with the manifest that says how to use it."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from mlsys.errors import SchemaError, VerificationError
from mlsys.html import facts
from mlsys.manifest import Container, InputField, Manifest, OutputField, Signature
from mlsys.models.categories import each_once
from mlsys.models.signature import from_json_columns, to_json_columns, to_training_frame
from mlsys.names import ModelRef

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

PREDICTION = "prediction"
PROBABILITY = "prediction_probability"
GOLDEN_TOLERANCE = 1e-9


@dataclass(frozen=True)
class Model:
    """One version of a model, ready to predict.

    Examples
    --------
    >>> model = load_model("titanic-survival", "v1")  # doctest: +SKIP
    >>> model.predict(batch).column_names  # doctest: +SKIP
    ['prediction', 'prediction_probability']
    """

    manifest: Manifest
    estimator: Any

    @property
    def ref(self) -> ModelRef:
        """The version that this is."""
        return self.manifest.ref

    def __repr__(self) -> str:
        return f"<Model {self.ref}: {type(self.estimator).__name__}>"

    def _repr_html_(self) -> str:
        estimator = " ".join(repr(self.estimator).split())
        return facts(str(self.ref), {**self.manifest.lines(), "estimator": estimator})

    def predict(self, rows: pa.Table | pa.RecordBatch) -> pa.Table:
        """Predict one output row for each input row, in their order.

        Parameters
        ----------
        rows
            The signature's input columns, in any order, among any others; n rows.

        Returns
        -------
        pyarrow.Table
            n rows: ``prediction`` and, for a classifier that gives probabilities, ``prediction_probability``: of
            the second class when there are two, of the predicted class when there are more.

        Raises
        ------
        SchemaError
            The rows do not fit the signature, or the estimator does not give one label of its type for each row.
        """
        return predict(self.estimator, self.manifest.signature, rows)

    def golden_table(self) -> pa.Table:
        """Return the inputs of the golden rows, as BigQuery would give them."""
        return from_json_columns(self.manifest.golden_rows.inputs, self.manifest.signature.inputs)

    def golden_differences(self, *, tolerance: float = GOLDEN_TOLERANCE) -> list["GoldenDifference"]:
        """Return where the model gives other outputs for its golden rows than when it was saved.

        ``tolerance`` is the difference allowed between two numbers, as a share of the larger one or, near zero,
        absolute. NaN equals NaN; anything else must be equal.
        """
        golden = self.manifest.golden_rows
        try:
            got = to_json_columns(self.predict(self.golden_table()))
        except Exception as exc:
            raise VerificationError(f"{self.ref} cannot predict its golden rows ({type(exc).__name__}: {exc})") from exc
        return [
            GoldenDifference(row, name, was, now)
            for name, expected in golden.outputs.items()
            for row, (was, now) in enumerate(zip(expected, got[name], strict=True))
            if not same(was, now, tolerance)
        ]

    def check_golden_rows(self, *, tolerance: float = GOLDEN_TOLERANCE) -> None:
        """Raise `VerificationError`, with expected and found side by side, if there are `golden_differences`."""
        if differences := self.golden_differences(tolerance=tolerance):
            raise VerificationError(
                f"{self.ref} gives other outputs than when it was saved: {'; '.join(map(str, differences))} (tolerance"
                f" {tolerance:g}): this environment does not reproduce the model"
            )


@dataclass(frozen=True)
class GoldenDifference:
    """An output of a golden row, from 0, that is not what it was when the model was saved."""

    row: int
    column: str
    expected: Any
    found: Any

    def __str__(self) -> str:
        return f"golden row {self.row}: {self.column} expected {self.expected!r}, found {self.found!r}"


def predict(estimator: Any, signature: Signature, rows: pa.Table | pa.RecordBatch) -> pa.Table:
    """Return the predictions of ``estimator`` as `Model.predict` does."""
    if rows.num_rows == 0:  # scikit-learn refuses an empty frame
        return pa.schema([(o.name, _output_type(o)) for o in signature.outputs]).empty_table()
    return predict_frame(estimator, signature, to_training_frame(rows, signature.inputs))


def predict_frame(estimator: Any, signature: Signature, frame: "pd.DataFrame") -> pa.Table:
    """Return the predictions of ``estimator`` for a frame with training's dtypes, as `Model.predict` does."""
    estimator, features = _transformed(estimator, frame.to_numpy() if signature.container == "numpy" else frame)
    if PROBABILITY not in (output.name for output in signature.outputs):
        return pa.table({PREDICTION: _arrow(_predicted(estimator, features, len(frame)), signature.outputs[0])})
    shares = _output(estimator.predict_proba(features), len(frame), len(signature.classes or ()), "predict_proba")
    labels = _likeliest(estimator, features, shares)
    if labels is None:
        labels = _predicted(estimator, features, len(frame))
    best = shares[:, 1] if signature.task == "binary" else shares.max(axis=1)
    return pa.table({PREDICTION: _arrow(labels, signature.outputs[0]), PROBABILITY: pa.array(best, pa.float64())})


def _transformed(estimator: Any, features: Any) -> tuple[Any, Any]:
    """Do the steps before a pipeline's last one once, instead of once for labels and once for probabilities."""
    from sklearn.pipeline import Pipeline

    if type(estimator) is not Pipeline or len(estimator.steps) < 2 or estimator.steps[-1][1] in (None, "passthrough"):
        return estimator, features
    for _, step in estimator.steps[:-1]:  # estimator[:-1] is refused as not fitted when its last step has no state
        if step not in (None, "passthrough"):
            features = each_once(step).transform(features)
    return estimator.steps[-1][1], features


def _predicted(estimator: Any, features: Any, rows: int) -> "np.ndarray":
    return _output(estimator.predict(features), rows, 1, "predict").ravel()


# Classifiers of scikit-learn whose label is the class of the highest probability, as far as rounding lets one tell.
_LABEL_IS_LIKELIEST = {
    ("sklearn.ensemble._forest", "ExtraTreesClassifier"),
    ("sklearn.ensemble._forest", "RandomForestClassifier"),
    ("sklearn.ensemble._gb", "GradientBoostingClassifier"),
    ("sklearn.ensemble._hist_gradient_boosting.gradient_boosting", "HistGradientBoostingClassifier"),
    ("sklearn.linear_model._logistic", "LogisticRegression"),
}
_TIE = 1e-9


def _likeliest(estimator: Any, features: Any, shares: "np.ndarray") -> "np.ndarray | None":
    """Return the labels by the probabilities, where that is exact: it saves as much time again. None elsewhere."""
    import numpy as np

    if (type(estimator).__module__, type(estimator).__name__) not in _LABEL_IS_LIKELIEST:
        return None
    labels = estimator.classes_[shares.argmax(axis=1)]
    highest = shares if shares.shape[1] <= 2 else np.partition(shares, -2, axis=1)[:, -2:]
    close = np.flatnonzero(~(np.abs(highest[:, -1] - highest[:, 0]) > _TIE)) if shares.shape[1] > 1 else ()
    if len(close):  # which one it is depends on how the scores were rounded: ask
        from sklearn.utils import _safe_indexing  # takes rows of whatever scikit-learn takes

        labels[close] = estimator.predict(_safe_indexing(features, close))
    return labels


def _output(values: Any, rows: int, width: int, method: str) -> "np.ndarray":
    import numpy as np

    values = np.asarray(values)
    if values.shape != (rows, width) and (width > 1 or values.shape != (rows,)):
        raise SchemaError(f"{method} must give {width} value(s) for each row, got shape {values.shape} for {rows} rows")
    return values


def _arrow(labels: "np.ndarray", field: OutputField) -> pa.Array:
    try:
        return pa.array(labels, _output_type(field))
    except (pa.ArrowException, ValueError, TypeError, OverflowError) as exc:
        raise SchemaError(f"predict must give {field.type}, got {labels.dtype} like {labels[:3]}: {exc}") from exc


_OUTPUT_TYPES = {"INT64": pa.int64(), "FLOAT64": pa.float64(), "STRING": pa.string(), "BOOL": pa.bool_()}


def _output_type(field: OutputField) -> pa.DataType:
    return _OUTPUT_TYPES[field.type]


def describe(estimator: Any, inputs: tuple[InputField, ...], container: Container) -> Signature:
    """Return the signature of a fitted estimator for the given input columns.

    Raises
    ------
    SchemaError
        The estimator has no ``predict``, it has several outputs, or its classes have no BigQuery type.
    """
    if not callable(getattr(estimator, "predict", None)):
        raise SchemaError(f"a model needs a predict method, got a {type(estimator).__name__}")
    classes = getattr(estimator, "classes_", None)
    if classes is None:
        output = OutputField(name=PREDICTION, type="FLOAT64")
        return Signature(task="regression", container=container, inputs=inputs, outputs=(output,))
    labels = _labels(classes)
    kinds = {bool: "BOOL", int: "INT64", float: "FLOAT64", str: "STRING"}
    types = {kinds.get(type(label)) for label in labels}
    if len(types) != 1 or None in types:
        raise SchemaError(f"classes must be all integers, texts, booleans or floats, got {labels[:5]}")
    outputs: tuple[OutputField, ...] = (OutputField(name=PREDICTION, type=types.pop()),)
    if callable(getattr(estimator, "predict_proba", None)):
        outputs += (OutputField(name=PROBABILITY, type="FLOAT64"),)
    task = "binary" if len(labels) == 2 else "multiclass"
    return Signature(task=task, container=container, inputs=inputs, outputs=outputs, classes=tuple(labels))


def _labels(classes: Any) -> list[Any]:
    import numpy as np

    if any(np.ndim(label) for label in classes):
        raise SchemaError("a model must have one output, this classifier has several: save one model for each")
    plain = "biufU"  # of NumPy's kinds; item() of the others gives something else, such as a number for a time
    return [c.item() if isinstance(c, np.generic) and c.dtype.kind in plain else c for c in classes]


def same(was: Any, now: Any, tolerance: float = 1e-9) -> bool:
    """Return whether two JSON values of `to_json_columns` are equal, floats up to ``tolerance``."""
    if float in (type(was), type(now)) and isinstance(was, float | int) and isinstance(now, float | int):
        return math.isclose(was, now, rel_tol=tolerance, abs_tol=tolerance)
    return was == now
