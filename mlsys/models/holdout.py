"""Held-out rows: kept beside a version, so that another version can be measured on the very same."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from mlsys.errors import MlsysError, SchemaError, VerificationError
from mlsys.manifest import Signature
from mlsys.models.model import PREDICTION, PROBABILITY, Model
from mlsys.models.signature import to_bigquery_table

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

TARGET = "__target"  # no BigQuery column that users see starts so

# Of the measures below, those of which less is better.
LOWER_IS_BETTER = frozenset({"log_loss", "brier_score", "mae", "rmse"})
MEASURES = LOWER_IS_BETTER | {
    "accuracy", "balanced_accuracy", "precision", "recall", "f1", "f1_macro", "roc_auc", "average_precision", "r2",
}  # fmt: skip


def write_holdout(path: Path, signature: Signature, X: "pd.DataFrame", y: Any) -> None:  # noqa: N803
    """Write rows as BigQuery would give them, and the truth about each, to a Parquet file.

    Raises
    ------
    SchemaError
        There are none, ``X`` and ``y`` differ in length, or ``y`` has a value that the model does not know.
    """
    import pyarrow.parquet as pq

    if not 0 < len(X) == len(y):
        raise SchemaError(f"holdout must be (X, y) of as many rows each, and some, got {len(X)} and {len(y)}")
    table = to_bigquery_table(X, signature.inputs)
    pq.write_table(table.append_column(TARGET, _target(signature, y)), path, compression="zstd")


def measure(model: Model, path: Path) -> dict[str, float]:
    """Return what a model scores on held-out rows, name to value; the names are scikit-learn's.

    A classifier of two classes, the second being the positive one: accuracy, balanced_accuracy, precision, recall, f1,
    and, when it gives probabilities and both classes are there, roc_auc, average_precision, log_loss, brier_score. Of
    more classes: accuracy, balanced_accuracy, f1_macro. A regressor: r2 (of two rows or more), mae, rmse.

    Raises
    ------
    SchemaError
        The rows do not fit the model, or cannot be measured.
    VerificationError
        The file is not what `write_holdout` writes.
    """
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
        truth = table[TARGET].to_numpy()
    except (pa.ArrowException, KeyError) as exc:
        raise VerificationError(f"{path.name} holds no held-out rows ({exc})") from exc
    try:
        return _measured(model, table, truth)
    except MlsysError:
        raise
    except ValueError as exc:
        raise SchemaError(f"the held-out rows cannot be measured: {exc}") from exc


def _measured(model: Model, table: pa.Table, truth: "np.ndarray") -> dict[str, float]:
    predicted = model.predict(table.drop_columns([TARGET]))
    labels = predicted[PREDICTION].to_numpy()
    task = model.manifest.signature.task
    if task == "regression":
        return _of_numbers(truth, labels)
    if task == "multiclass":
        return _of_classes(truth, labels) | {"f1_macro": _f1(truth, labels, average="macro")}
    _, positive = model.manifest.signature.classes or ()
    scores = _of_two_classes(truth, labels, positive)
    if PROBABILITY in predicted.column_names and len(set(truth)) == 2:
        scores |= _of_probabilities(truth == positive, predicted[PROBABILITY].to_numpy())
    return scores


def _target(signature: Signature, y: Any) -> pa.Array:
    import pandas as pd

    kind = {"INT64": pa.int64(), "FLOAT64": pa.float64(), "STRING": pa.string(), "BOOL": pa.bool_()}
    values = pd.Series(y).reset_index(drop=True)
    if missing := int(values.isna().sum()):
        raise SchemaError(f"the y of holdout must be known for each row, got {missing} missing")
    try:
        target = pa.Array.from_pandas(values).cast(kind[signature.outputs[0].type])
    except pa.ArrowException as exc:
        raise SchemaError(f"the y of holdout must be {signature.outputs[0].type}, got {values.dtype}: {exc}") from exc
    if unknown := {*target.unique().to_pylist()} - {*(signature.classes or target.to_pylist())}:
        raise SchemaError(f"the y of holdout has {sorted(unknown)[:5]}, which the model does not know")
    return target


def _of_numbers(truth: "np.ndarray", predicted: "np.ndarray") -> dict[str, float]:
    from sklearn import metrics

    scores = {
        "mae": metrics.mean_absolute_error(truth, predicted),
        "rmse": metrics.root_mean_squared_error(truth, predicted),
    }
    return scores | ({"r2": metrics.r2_score(truth, predicted)} if len(truth) > 1 else {})


def _of_classes(truth: "np.ndarray", labels: "np.ndarray") -> dict[str, float]:
    from sklearn import metrics

    recalls = metrics.recall_score(truth, labels, labels=sorted({*truth}), average=None, zero_division=0)
    return {"accuracy": metrics.accuracy_score(truth, labels), "balanced_accuracy": float(recalls.mean())}


def _of_two_classes(truth: "np.ndarray", labels: "np.ndarray", positive: Any) -> dict[str, float]:
    from sklearn import metrics

    true, hit = truth == positive, labels == positive
    return _of_classes(truth, labels) | {
        "precision": metrics.precision_score(true, hit, zero_division=0),
        "recall": metrics.recall_score(true, hit, zero_division=0),
        "f1": _f1(true, hit),
    }


def _of_probabilities(true: "np.ndarray", probability: "np.ndarray") -> dict[str, float]:
    from sklearn import metrics

    return {
        "roc_auc": metrics.roc_auc_score(true, probability),
        "average_precision": metrics.average_precision_score(true, probability),
        "log_loss": metrics.log_loss(true, probability),
        "brier_score": metrics.brier_score_loss(true, probability),
    }


def _f1(truth: "np.ndarray", labels: "np.ndarray", **options: Any) -> float:
    from sklearn import metrics

    return metrics.f1_score(truth, labels, zero_division=0, **options)
