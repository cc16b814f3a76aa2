"""No prediction differs without a word from the one that training's frame gives, whatever the types.

The golden frame is built here by pandas alone from Python values; what mlsys builds comes from Arrow.
`MLSYS_TYPE_CASES` is the number of examples.
"""

import hashlib
import os
import struct
import warnings
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from decimal import Decimal
from itertools import product

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from google.cloud.bigquery import SchemaField
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from sklearn.base import BaseEstimator
from sklearn.compose import make_column_transformer
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder

from mlsys.bq import arrow_schema
from mlsys.errors import SchemaError
from mlsys.manifest import Artifact, GoldenRows, Manifest, Signature
from mlsys.models.model import Model, describe
from mlsys.models.signature import infer_inputs
from mlsys.predict import score

CASES = int(os.environ.get("MLSYS_TYPE_CASES", "300"))

# What a BigQuery column of each type may hold: ordinary values, and the edges of what BigQuery and dtypes hold.
INTEGERS = [0, 1, 2, 3, 7, -1, 127, 128, 255, 256, -129, 2**24, 2**24 + 1, 2**31 - 1, 2**31, 2**53 - 1, 2**53,
            2**53 + 1, -(2**53) - 1, 2**54, 2**63 - 1, -(2**63)]  # fmt: skip
FLOATS = [0.0, -0.0, 1.0, 0.5, 0.1, -2.75, 16777217.0, 1e-310, 1e39, 3.4028236e38, 65504.0, 1e300, float("inf"),
          float("-inf"), float("nan")]  # fmt: skip
MOMENTS = [datetime(2024, 2, 29, 12, 30), datetime(1970, 1, 1), datetime(2024, 1, 1, 0, 0, 0, 5),
           datetime(1969, 12, 31), datetime(2024, 1, 1, 0, 0, 7, 1000), datetime(1, 1, 1),
           datetime(9999, 12, 31, 23, 59, 59, 999999), datetime(1677, 9, 21), datetime(2262, 4, 12)]  # fmt: skip
VALUES = {
    "INT64": INTEGERS,
    "FLOAT64": FLOATS,
    "NUMERIC": [Decimal(v) for v in ("0", "1", "1.5", "-0.000000001", "123.456789012", f"{'9' * 29}.{'9' * 9}")],
    "BOOL": [True, False],
    "STRING": ["a", "b", "", "ä", "a ", "None", "nan", "1", "x\0y", "🦆", "1.0", "True"],
    "BYTES": [b"a", b"", b"\xff\0", b"nan"],
    "DATE": [date(2024, 1, 1), date(1970, 1, 1), date(1, 1, 1), date(9999, 12, 31), date(2024, 2, 29)],
    "TIME": [time(0), time(12, 30), time(23, 59, 59, 999999), time(1, 2, 3, 4000)],
    "DATETIME": MOMENTS,
    # Python has no year 10000, which the end of the last day is in some zones.
    "TIMESTAMP": [min(moment, datetime(9999, 12, 30)).replace(tzinfo=UTC) for moment in MOMENTS],
}
ARROW = {name: arrow_schema([SchemaField("c", name)]).field("c").type for name in VALUES}


@dataclass(frozen=True)
class Dtype:
    """A pandas dtype that a column of a BigQuery type may have been trained on, and what stands for NULL in it."""

    kind: str
    dtype: object
    missing: object = None
    ordered: bool | None = None  # of a category of ``dtype``

    def holds(self, value: object) -> bool:
        """Return whether pandas puts this value into the dtype as it is; of floats, as it rounds them."""
        if self.kind == "FLOAT64" and isinstance(value, int):  # a FLOAT64 column would have held it as a float
            return abs(value) <= 2**53 and self.holds(float(value))
        try:
            with np.errstate(over="ignore"), warnings.catch_warnings(action="ignore"):
                held = self.column([value])[0]
        except (ValueError, TypeError, OverflowError, pa.ArrowException):
            return False
        if value is None or value != value:
            return True
        if isinstance(value, float):
            return bool(np.isinf(held) == np.isinf(value))
        if isinstance(value, datetime):  # pandas cuts off what a coarse unit cannot hold
            return bool(held == pd.Timestamp(value))
        return bool(held == value and (not isinstance(value, int) or int(held) == value))

    def column(self, values: list, levels: list | None = None) -> pd.Series:
        """Return the column that training would have had for these values."""
        if self.kind == "FLOAT64":  # BigQuery's integers are exact where training had floats, or refused
            values = [None if v is None or v != v else float(v) for v in values]
        if self.ordered is None:
            if self.dtype is object:
                return pd.Series([self.missing if v is None else v for v in values], dtype=object)
            if self.kind == "TIMESTAMP" and isinstance(self.dtype, pd.DatetimeTZDtype):
                naive = [pd.NaT if v is None else v.replace(tzinfo=None) for v in values]
                unit = self.dtype.unit
                return pd.Series(naive, dtype=f"datetime64[{unit}]").dt.tz_localize("UTC").dt.tz_convert(self.dtype.tz)
            if isinstance(self.dtype, pd.ArrowDtype):
                values = [self.missing if v is None else v for v in values]
                array = pa.array(values, ARROW[self.kind]).cast(self.dtype.pyarrow_dtype)
                return pd.Series(pd.arrays.ArrowExtensionArray(array))
            if any(v is None for v in values) and isinstance(self.dtype, np.dtype) and self.dtype.kind in "iub":
                raise ValueError("no missing values")
            return pd.Series(values, dtype=self.dtype)
        of_levels = pd.Index(Dtype(self.kind, self.dtype).column(levels))
        codes = [-1 if v is None else levels.index(v) for v in values]
        return pd.Series(pd.Categorical.from_codes(codes, dtype=pd.CategoricalDtype(of_levels, self.ordered)))


def dtypes() -> list[Dtype]:
    """Return every dtype of every type."""
    plain = {
        "INT64": ["int64", "int32", "int8", "uint8", "uint16", "Int64", "Int32", "UInt8"],
        "FLOAT64": ["float64", "float32", "float16", "Float64", "Float32"],
        "BOOL": ["bool", "boolean"],
        "STRING": ["str", "string"],
        "DATETIME": ["datetime64[us]", "datetime64[ns]", "datetime64[ms]", "datetime64[s]"],
        "TIMESTAMP": ["datetime64[us, UTC]", "datetime64[ns, UTC]", "datetime64[us, Europe/Berlin]",
                      "datetime64[ns, America/New_York]", "datetime64[s, UTC]"],
    }  # fmt: skip
    arrow = {
        "INT64": [pa.int64(), pa.int8(), pa.uint32()], "FLOAT64": [pa.float64(), pa.float32()],
        "NUMERIC": [pa.decimal128(38, 9)], "BOOL": [pa.bool_()], "STRING": [pa.string(), pa.large_string()],
        "BYTES": [pa.binary()], "DATE": [pa.date32()], "TIME": [pa.time64("us"), pa.time32("s")],
        "DATETIME": [pa.timestamp("us"), pa.timestamp("ns"), pa.timestamp("s")],
        "TIMESTAMP": [pa.timestamp("us", "UTC"), pa.timestamp("ns", "UTC"), pa.timestamp("us", "Asia/Tokyo")],
    }  # fmt: skip
    # The one dtype that has both NaN and NA.
    found = [Dtype("FLOAT64", pd.ArrowDtype(type_), float("nan")) for type_ in (pa.float64(), pa.float32())]
    for kind in VALUES:
        single = [pd.api.types.pandas_dtype(name) for name in plain.get(kind, [])]
        single += [pd.ArrowDtype(type_) for type_ in arrow[kind]]
        found += [Dtype(kind, dtype) for dtype in single]
        found += [Dtype(kind, object, missing) for missing in (None, float("nan"), pd.NA)]
        of_levels = [d for d in single if d != np.float16] + [object]  # pandas has no index of float16
        found += [Dtype(kind, dtype, ordered=ordered) for dtype, ordered in product(of_levels, (False, True))]
    return found


class Probe(BaseEstimator):
    """A model that sees everything: its prediction hashes each cell's type and value, and each column's dtype."""

    def fit(self, frame: pd.DataFrame, labels: object = None) -> "Probe":
        """Do nothing."""
        return self

    def predict(self, frame: pd.DataFrame) -> np.ndarray:
        """Give a number between 0 and 1 for each row."""
        assert isinstance(frame.index, pd.RangeIndex)
        head = repr([(name, _dtype_text(frame[name].dtype)) for name in frame.columns])
        rows = zip(*(map(_text, frame[name].tolist()) for name in frame.columns), strict=True)
        return np.array([_hash(head + repr(row)) for row in rows])


def _hash(text: str) -> float:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big") / 2**48


def _dtype_text(dtype: object) -> str:
    if isinstance(dtype, pd.CategoricalDtype):
        levels = dtype.categories
        return f"category {levels.dtype} {type(levels).__name__} {[*map(_text, levels.tolist())]} {dtype.ordered}"
    return str(dtype)


def _text(value: object) -> str:
    if isinstance(value, float):  # with the sign of zero
        return f"{type(value).__name__} {'nan' if value != value else struct.pack('>d', value).hex()}"
    if isinstance(value, Decimal):  # equal decimals are one value, however many zeros they end with
        return f"Decimal {value.normalize()}"
    zone = f" {value.utcoffset()}" if isinstance(value, datetime) and value is not pd.NaT else ""
    return f"{type(value).__name__} {value!s}{zone}"


def pipelines() -> dict:
    """Return real estimators, which treat types as scikit-learn does."""
    one = ["c"]
    return {
        "probe": Probe(),
        "one-hot": make_pipeline(
            make_column_transformer((OneHotEncoder(handle_unknown="ignore"), one)), LinearRegression()
        ),
        "one-hot-strict": make_pipeline(OneHotEncoder(), LinearRegression()),
        "ordinal": make_pipeline(
            OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1), SimpleImputer(), LinearRegression()
        ),
        "impute": make_pipeline(SimpleImputer(strategy="most_frequent"), OneHotEncoder(handle_unknown="ignore"),
                                LinearRegression()),
        "numbers": make_pipeline(SimpleImputer(strategy="median"), LinearRegression()),
        "boosting": HistGradientBoostingRegressor(max_iter=3, min_samples_leaf=1, categorical_features="from_dtype"),
    }  # fmt: skip


def model_of(estimator: object, frame: pd.DataFrame) -> Model:
    """Return the model as it is after a round trip through the manifest's JSON."""
    signature = describe(estimator, infer_inputs(frame), "dataframe")
    manifest = Manifest(
        model_name="m",
        model_version="v1",
        created=datetime.now(UTC),
        creator="somebody",
        artifacts=(Artifact(file="model.joblib", size=1, sha256="0" * 64),),
        signature=Signature.model_validate_json(signature.model_dump_json()),
        training_rows=len(frame),
        python_version="3.12",
        packages={},
        golden_rows=GoldenRows(inputs={}, outputs={}),
    )
    return Model(manifest, estimator)


@st.composite
def cases(draw: st.DrawFn) -> tuple:
    """Return what training saw and what is served."""
    dtype = draw(st.sampled_from(dtypes()))
    pool = [v for v in VALUES[dtype.kind] if dtype.ordered is not None or dtype.holds(v)]
    if dtype.ordered is not None:
        pool = [v for v in pool if v == v and Dtype(dtype.kind, dtype.dtype).holds(v)]
        if pd.api.types.is_float_dtype(dtype.dtype) or dtype.kind == "FLOAT64":
            pool = [0.0, 1.0, 0.5, -2.75]  # equal in every float
    else:
        pool = [v for v in pool if v == v]
    levels = draw(st.lists(st.sampled_from(pool), min_size=1, max_size=6, unique=True))
    seen = draw(st.lists(st.sampled_from(levels), min_size=1, max_size=6))
    gaps = draw(st.sampled_from(["none", "some", "all"]))
    if gaps != "none" and dtype.holds(None):
        seen = [None] * len(seen) if gaps == "all" else [*seen, None]
    kind = "INT64" if dtype.kind == "FLOAT64" and draw(st.integers(0, 3)) == 0 else dtype.kind
    again = seen if kind == dtype.kind else []
    serving = draw(st.lists(st.sampled_from([None, *VALUES[kind], *again]), min_size=1, max_size=12))
    return dtype, levels, seen, kind, serving


def served(values: list, kind: str, how: str) -> pa.RecordBatch:
    """Return the rows as BigQuery gives them, or as other readers do."""
    column = pa.array(values, ARROW[kind])
    if how == "dictionary":
        column = column.dictionary_encode()
    if how == "null-in-dictionary":
        distinct = {repr(value): value for value in values}  # 0.0 and -0.0 are two
        indices = pa.array([[*distinct].index(repr(value)) for value in values], pa.int8())
        column = pa.DictionaryArray.from_arrays(indices, pa.array([*distinct.values()], ARROW[kind]))
    return pa.record_batch({"id": pa.array(range(len(values)), pa.int64()), "c": column})


def golden_predictions(estimator: object, dtype: Dtype, levels: list, values: list) -> list:
    """Return what the estimator gives on training's frame; where it raises on that, for each row alone."""

    def predict(some: list) -> list:
        return estimator.predict(pd.DataFrame({"c": dtype.column(some, levels)})).tolist()

    try:
        return predict(values) if values else []
    except Exception:  # noqa: BLE001 - whatever a model raises
        return [predict([value])[0] for value in values]


@settings(max_examples=CASES, deadline=None, suppress_health_check=list(HealthCheck), print_blob=True)
@given(
    cases(),
    st.sampled_from(["plain", "dictionary", "null-in-dictionary"]),
    st.sampled_from(["probe", "probe", *pipelines()]),
)
def test_no_prediction_differs_without_a_word(case, how, name):
    """Each row is rejected with a reason, or predicted as on the frame that training would have had for it."""
    dtype, levels, seen, kind, serving = case
    estimator = pipelines()[name]
    frame = pd.DataFrame({"c": dtype.column(seen, levels)})
    with warnings.catch_warnings(action="ignore"):
        try:
            estimator.fit(frame, np.arange(len(frame), dtype=float))
        except Exception:  # noqa: BLE001 - this kind of model takes no such column
            event("not fitted")
            return
        model = model_of(estimator, frame)
        batch = served(serving, kind, how)
        if dtype.dtype is object and set(seen) == {None} and dtype.ordered is None and kind != "STRING":
            with pytest.raises(SchemaError, match=f"c is {kind}, training had STRING"):
                score(model, batch, ["id"])
            return  # a column of nothing but None tells no type
        scored = score(model, batch, ["id"])
        rejects = dict(zip(*scored.rejects.to_pydict().values(), strict=True))
        kept = scored.predictions["id"].to_pylist()
        assert sorted([*kept, *rejects]) == list(range(len(serving)))
        values = [None if v is None or v != v else v for v in (serving[i] for i in kept)]
        for value in values:
            assert value in levels if dtype.ordered is not None and value is not None else dtype.holds(value), value
        assert scored.predictions["prediction"].to_pylist() == golden_predictions(estimator, dtype, levels, values)
    for i, reason in rejects.items():
        assert reason.startswith(("c is ", "the model "))
        assert "SchemaError" not in reason
        if name == "probe":  # it takes everything, so only what training could not have had is rejected
            value = serving[i] if serving[i] == serving[i] else None
            assert value not in seen, reason
            assert reason.startswith("c is "), reason
    event(f"{'some' if rejects else 'no'} rejects, {'some' if kept else 'no'} predictions")
