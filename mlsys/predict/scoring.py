"""The arithmetic of a run: Arrow batches in, Arrow tables out, no I/O.

`score` can be handed to any engine that works on Arrow batches; Spark's ``mapInArrow`` has its shape.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from mlsys.errors import RejectedRowsError, SchemaError
from mlsys.models import Model
from mlsys.models.signature import check_columns, unfit_rows
from mlsys.predict.metadata import METADATA

if TYPE_CHECKING:
    import numpy as np

REASON = pa.field("reason", pa.string(), nullable=False)


@dataclass(frozen=True)
class Scored:
    """What became of a batch: each of its rows is in ``predictions`` or, with a reason, in ``rejects``."""

    predictions: pa.Table
    rejects: pa.Table


def score(model: Model, rows: pa.RecordBatch, id_columns: Sequence[str], *, max_rejects: int | None = None) -> Scored:
    """Predict a batch of n rows.

    A row is rejected when it is not what training saw (a missing value where there was none, an unknown level of a
    category, a value that training's dtype cannot hold), when the model raises on it, or when it predicts NaN, infinity
    or nothing for it.

    Parameters
    ----------
    max_rejects
        Raise `RejectedRowsError` once there are more. Without it, a model that raises on every row is called 2 n times.

    Returns
    -------
    Scored
        ``predictions`` has the id columns, then the model's outputs; ``rejects`` the id columns and ``reason``. Each in
        the order of the rows; n rows in all.

    Raises
    ------
    SchemaError
        A column is missing or has another type than training had.
    """
    inputs = model.manifest.signature.inputs
    check_columns(rows.schema, inputs)
    rejects = _Rejects(pa.Table.from_batches([rows.select(list(id_columns))]), max_rejects)
    rows = rows.select([field.name for field in inputs])
    rejects.add(unfit_rows(rows, inputs))
    kept = rejects.kept()
    outputs = pa.concat_tables(_predict(model, rows.take(kept) if rejects.reasons else rows, kept, rejects))
    finite = _finite(outputs)
    if odd := (~finite).nonzero()[0].tolist():
        kept = rejects.kept()
        rejects.add({int(kept[row]): _odd(outputs, row) for row in odd})
        outputs = outputs.filter(pa.array(finite))
    ids = rejects.ids.take(rejects.kept()) if rejects.reasons else rejects.ids
    return Scored(_beside(ids, outputs), rejects.table())


class _Rejects:
    """The rejected rows of a batch, by position, and how many of them are tolerated."""

    def __init__(self, ids: pa.Table, limit: int | None) -> None:
        self.ids, self._limit = ids, limit
        self.reasons: dict[int, str] = {}

    def add(self, reasons: dict[int, str]) -> None:
        self.reasons |= reasons
        if self._limit is not None and len(self.reasons) > self._limit:
            raise too_many(len(self.reasons), self._limit, self.table())

    def kept(self) -> "np.ndarray":
        """Return the positions of the other rows."""
        import numpy as np

        return np.delete(np.arange(self.ids.num_rows), list(self.reasons))

    def table(self) -> pa.Table:
        positions = sorted(self.reasons)
        reasons = pa.array([self.reasons[i] for i in positions], REASON.type)
        return self.ids.take(pa.array(positions, pa.int64())).append_column(REASON, reasons)


def too_many(count: int, limit: int, rejects: pa.Table) -> RejectedRowsError:
    """Return the error for a run that has more rejects than it tolerates, with the first of them."""
    *ids, reason = rejects.slice(0, 1).to_pylist()[0].items()
    row = ", ".join(f"{name} {value}" for name, value in ids)
    return RejectedRowsError(
        f"{count} row{'s' if count > 1 else ''} cannot be scored, {limit} tolerated; the first is {row}: {reason[1]}."
        " Correct the input, or raise --max-rejects"
    )


def _predict(model: Model, rows: pa.RecordBatch, positions: "np.ndarray", rejects: _Rejects) -> list[pa.Table]:
    """Return the outputs of the rows that the model can score; halve until those that it cannot stand alone."""
    try:
        return [model.predict(rows)]
    except MemoryError:
        raise
    except (Exception, SystemExit) as exc:  # noqa: BLE001 - whatever a model raises is what is wrong with the row
        if rows.num_rows == 1:
            reason = f"the model raises {type(exc).__name__}: {exc}"[:1000].encode(errors="backslashreplace").decode()
            rejects.add({int(positions[0]): reason})
            return [model.predict(rows.slice(0, 0))]
    half = rows.num_rows // 2
    first = _predict(model, rows.slice(0, half), positions[:half], rejects)
    return first + _predict(model, rows.slice(half), positions[half:], rejects)


def _finite(outputs: pa.Table) -> "np.ndarray":
    """Return for each row whether it has every output, and all its numbers are finite."""
    import numpy as np

    finite = np.ones(outputs.num_rows, bool)
    for column in outputs.columns:
        if pa.types.is_floating(column.type):
            finite &= pc.fill_null(pc.is_finite(column), False).to_numpy()
        elif column.null_count:
            finite &= column.is_valid().to_numpy()
    return finite


def _odd(outputs: pa.Table, row: int) -> str:
    values = outputs.slice(row, 1).to_pylist()[0].items()
    return "the model gives " + ", ".join(f"{name} {value}" for name, value in values)


def _beside(left: pa.Table, right: pa.Table) -> pa.Table:
    for field, column in zip(right.schema, right.columns, strict=True):
        left = left.append_column(field, column)
    return left


def scored_schemas(model: Model, source: pa.Schema, id_columns: Sequence[str]) -> tuple[pa.Schema, pa.Schema]:
    """Return the columns of what `score` gives: of the predictions, and of the rejects.

    Raises
    ------
    SchemaError
        An id column is not in the source, or has the name of a column that a prediction adds.
    """
    absent = [name for name in id_columns if name not in source.names]
    if absent:
        raise SchemaError(f"no id column {', '.join(absent)} in the source; it has {', '.join(source.names)}")
    ids = [source.field(name) for name in id_columns]
    outputs = model.predict(source.empty_table()).schema
    ours = {field.name for field in (*outputs, *METADATA, REASON)}
    if taken := [name for name in id_columns if name.lower() in ours]:  # BigQuery's column names ignore case
        raise SchemaError(f"a prediction adds {', '.join(taken)} itself: rename that id column in the query")
    return pa.schema([*ids, *outputs]), pa.schema([*ids, REASON])
