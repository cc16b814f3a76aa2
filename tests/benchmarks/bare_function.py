"""What one writes without mlsys: a functions-framework function that predicts a DataFrame. `bench_serve` starts it."""

import os
from functools import cache

import functions_framework


@cache
def _estimator():
    from mlsys.models import load_model

    return load_model(os.environ["MODEL_NAME"]).estimator


@functions_framework.http
def both(request):
    """Answer with labels and probabilities, as the service does."""
    import pandas as pd

    frame = pd.DataFrame(request.get_json()["instances"])
    labels, shares = _estimator().predict(frame), _estimator().predict_proba(frame)[:, 1]
    rows = zip(labels.tolist(), shares.tolist(), strict=True)
    return {"predictions": [{"prediction": label, "prediction_probability": share} for label, share in rows]}


@functions_framework.http
def label(request):
    """Answer with labels alone: one call of the model."""
    import pandas as pd

    return {"predictions": _estimator().predict(pd.DataFrame(request.get_json()["instances"])).tolist()}
