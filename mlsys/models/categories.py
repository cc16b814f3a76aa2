"""Encoders of categories, applied once to each combination of values instead of once to each row.

A one-hot or ordinal encoder compares the text of every row with its categories, which is most of what a linear pipeline
takes. A batch has far fewer combinations of categories than rows.
"""

import copy
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

# They look at one row alone, so that equal rows become equal rows.
_ROW_BY_ROW = {
    ("sklearn.impute._base", "SimpleImputer"),
    ("sklearn.preprocessing._encoders", "OneHotEncoder"),
    ("sklearn.preprocessing._encoders", "OrdinalEncoder"),
}
_ROWS_A_COMBINATION = 4  # with fewer, finding the combinations costs more than it saves


def each_once(step: Any) -> Any:
    """Return a step that transforms as ``step`` does, in less time when it is a ColumnTransformer of encoders."""
    from sklearn.compose import ColumnTransformer

    if type(step) is not ColumnTransformer:
        return step
    quick = copy.copy(step)
    quick.transformers_ = [
        (name, _EachOnce(part, dense=not step.sparse_output_) if _encodes(part) else part, columns)
        for name, part, columns in step.transformers_
    ]
    return quick


def _encodes(part: Any) -> bool:
    from sklearn.pipeline import Pipeline

    steps = [step for _, step in part.steps] if type(part) is Pipeline else [part]
    kinds = [(type(step).__module__, type(step).__name__) for step in steps]
    return set(kinds) <= _ROW_BY_ROW and any(name.endswith("Encoder") for _, name in kinds)


class _EachOnce:
    def __init__(self, encoder: Any, *, dense: bool) -> None:
        self._encoder, self._dense = encoder, dense

    def transform(self, features: Any) -> Any:
        codes = _combinations(features) if hasattr(features, "iloc") else None
        if codes is None:
            return self._encoder.transform(features)
        import numpy as np
        import pandas as pd

        inverse, combinations = pd.factorize(codes)
        some = np.empty(len(combinations), np.int64)
        some[inverse] = np.arange(len(codes))  # a row of each
        if len(some) * _ROWS_A_COMBINATION > len(features):
            return self._encoder.transform(features)
        encoded = self._encoder.transform(features.iloc[some])
        if self._dense and hasattr(encoded, "toarray"):  # as ColumnTransformer does, for fewer rows
            encoded = encoded.toarray()
        if hasattr(encoded, "iloc"):  # set_output(transform="pandas")
            return encoded.iloc[inverse].set_axis(features.index)
        return encoded[inverse]


def _combinations(features: "pd.DataFrame") -> "np.ndarray | None":
    """Return a number for each row, equal for rows with equal values; None when there are too many combinations."""
    import numpy as np
    import pandas as pd

    combined, combinations = np.zeros(len(features), np.int64), 1
    for name in features.columns:
        codes, levels = pd.factorize(features[name])  # a missing value is -1
        combinations *= len(levels) + 1
        if combinations > len(features):
            return None
        combined = combined * (len(levels) + 1) + codes + 1
    return combined
