"""Encoding each combination of categories once gives, to the bit, what encoding each row gives."""

import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from sklearn.compose import ColumnTransformer, make_column_transformer
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, OrdinalEncoder, StandardScaler

from mlsys.models import categories
from mlsys.models.categories import each_once

RNG = np.random.default_rng(0)


def frame(rows, missing=None):
    """Return categories of several dtypes, and numbers; ``missing`` stands for some of the texts."""
    text = pd.Series(RNG.choice(["a", "b", "c"], rows), dtype=object)
    if missing is not None:
        text[RNG.random(rows) < 0.2] = missing[0]
    return pd.DataFrame(
        {
            "text": text,
            "string": pd.Series(RNG.choice(["x", "y"], rows), dtype="str"),
            "number": pd.array(RNG.integers(0, 5, rows), "Int64"),
            "level": pd.Categorical(RNG.choice(["low", "high"], rows), ["low", "high"]),
            "size": RNG.normal(size=rows),
        }
    )


CATEGORIES = ["text", "string", "number", "level"]
ENCODERS = {
    "one-hot": lambda: OneHotEncoder(handle_unknown="ignore"),
    "dense": lambda: OneHotEncoder(handle_unknown="infrequent_if_exist", sparse_output=False, min_frequency=0.3),
    "ordinal": lambda: OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1, encoded_missing_value=-2),
    "imputed": lambda: make_pipeline(SimpleImputer(strategy="most_frequent"), OneHotEncoder(handle_unknown="ignore")),
}


@pytest.mark.parametrize("missing", [None, (None,), (float("nan"),)], ids=["full", "None", "NaN"])
@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("output", ["default", "pandas"])
def test_result_is_the_same(encoder, missing, output):
    """Values, types, sparseness and names, with unknown levels among the rows."""
    if output == "pandas" and encoder in ("one-hot", "imputed"):
        pytest.skip("pandas holds no sparse matrix")
    if encoder == "imputed" and missing == (None,):
        pytest.skip("SimpleImputer knows NaN alone")
    columns = ["text", "string"] if encoder == "imputed" else CATEGORIES
    parts = [("categories", ENCODERS[encoder](), columns), ("numbers", StandardScaler(), ["size"])]
    rest = "passthrough" if encoder == "dense" else "drop"
    step = ColumnTransformer(parts, remainder=rest).set_output(transform=output).fit(frame(200, missing))
    rows = frame(1000, missing)
    rows.loc[5, "text"] = "never seen"
    expected, got = step.transform(rows), each_once(step).transform(rows)
    assert type(got) is type(expected)
    if output == "pandas":
        pd.testing.assert_frame_equal(got, expected)
    else:
        dense = [x.toarray() if sparse.issparse(x) else x for x in (got, expected)]
        np.testing.assert_array_equal(*dense)
        assert got.dtype == expected.dtype


def test_each_combination_is_encoded_once(monkeypatch):
    """A thousand rows of six combinations are six rows for the encoder."""
    seen = []
    original = OneHotEncoder.transform
    step = make_column_transformer((OneHotEncoder(), ["text", "string"])).fit(frame(200))
    monkeypatch.setattr(OneHotEncoder, "transform", lambda self, rows: seen.append(len(rows)) or original(self, rows))
    each_once(step).transform(frame(1000))
    assert seen == [6]
    each_once(step).transform(frame(20))  # too few rows for as many combinations
    assert seen == [6, 20]


def test_what_is_no_encoder_sees_every_row():
    """A function may count its rows."""
    step = make_column_transformer(
        (FunctionTransformer(lambda size: size.cumsum()), ["size"]), (OneHotEncoder(), ["text"])
    )
    rows = frame(500)
    step.fit(rows)
    np.testing.assert_array_equal(*(s.transform(rows) for s in (step, each_once(step))))
    scaler = StandardScaler()
    assert each_once(scaler) is scaler


def test_too_many_combinations_are_not_looked_for():
    """Two columns of ids multiply to more combinations than an integer holds."""
    ids = pd.DataFrame({f"c{i}": np.arange(100) for i in range(40)})
    assert categories._combinations(ids) is None
