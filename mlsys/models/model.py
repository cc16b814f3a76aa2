"""A loaded model version: an estimator together with the manifest that says how to use it."""

from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from mlsys.errors import SchemaError, VerificationError
from mlsys.manifest import Container, InputField, Manifest, OutputField, Signature
from mlsys.models.signature import from_json_columns, to_json_columns, to_training_frame
from mlsys.names import ModelRef

PREDICTION = "prediction"
PROBABILITY = "prediction_probability"


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
            The rows do not fit the signature.
        """
        return predict(self.estimator, self.manifest.signature, rows)

    def check_golden_rows(self, *, tolerance: float = 1e-9) -> None:
        """Raise `VerificationError` unless the model still gives the outputs that it gave when it was saved.

        ``tolerance`` is the absolute difference allowed in a number.
        """
        golden, signature = self.manifest.golden_rows, self.manifest.signature
        got = to_json_columns(self.predict(from_json_columns(golden.inputs, signature.inputs)))
        for name, expected in golden.outputs.items():
            for row, (was, now) in enumerate(zip(expected, got[name], strict=True)):
                if not _same(was, now, tolerance):
                    raise VerificationError(
                        f"{self.ref} gives {name} = {now!r} for golden row {row}, it was {was!r} when it was saved:"
                        " this environment does not reproduce the model"
                    )


def predict(estimator: Any, signature: Signature, rows: pa.Table | pa.RecordBatch) -> pa.Table:
    """Return the predictions of ``estimator`` as `Model.predict` does."""
    if rows.num_rows == 0:  # scikit-learn refuses an empty frame
        return pa.schema([(o.name, _output_type(o)) for o in signature.outputs]).empty_table()
    frame = to_training_frame(rows, signature.inputs)
    features = frame.to_numpy() if signature.container == "numpy" else frame
    outputs = {o.name: _output_type(o) for o in signature.outputs}
    labels = estimator.predict(features)
    columns = {PREDICTION: pa.array(labels.ravel(), outputs[PREDICTION])}
    if PROBABILITY in outputs:
        shares = estimator.predict_proba(features)
        best = shares[:, 1] if signature.task == "binary" else shares.max(axis=1)
        columns[PROBABILITY] = pa.array(best, pa.float64())
    return pa.table(columns)


_OUTPUT_TYPES = {"INT64": pa.int64(), "FLOAT64": pa.float64(), "STRING": pa.string(), "BOOL": pa.bool_()}


def _output_type(field: OutputField) -> pa.DataType:
    return _OUTPUT_TYPES[field.type]


def describe(estimator: Any, inputs: tuple[InputField, ...], container: Container) -> Signature:
    """Return the signature of a fitted estimator for the given input columns.

    Raises
    ------
    SchemaError
        The estimator is not a fitted single-output classifier or regressor, or its classes have no BigQuery type.
    """
    if not callable(getattr(estimator, "predict", None)):
        raise SchemaError(f"a model needs a predict method, got a {type(estimator).__name__}")
    classes = getattr(estimator, "classes_", None)
    if classes is None:
        outputs = (OutputField(name=PREDICTION, type="FLOAT64"),)
        return Signature(task="regression", container=container, inputs=inputs, outputs=outputs)
    labels = [c.item() if hasattr(c, "item") else c for c in classes]
    kinds = {bool: "BOOL", int: "INT64", float: "FLOAT64", str: "STRING"}
    types = {kinds.get(type(label)) for label in labels}
    if len(types) != 1 or None in types:
        raise SchemaError(f"classes must be all integers, texts, booleans or floats, got {labels[:5]}")
    outputs = [OutputField(name=PREDICTION, type=types.pop())]
    if callable(getattr(estimator, "predict_proba", None)):
        outputs.append(OutputField(name=PROBABILITY, type="FLOAT64"))
    task = "binary" if len(labels) == 2 else "multiclass"
    return Signature(task=task, container=container, inputs=inputs, outputs=tuple(outputs), classes=tuple(labels))


def _same(was: Any, now: Any, tolerance: float) -> bool:
    if isinstance(was, float) and isinstance(now, float | int):
        return abs(was - now) <= tolerance
    return was == now
