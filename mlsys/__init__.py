"""Take a model from a notebook to scheduled, audited predictions in BigQuery.

The parts are imported by name, so that each costs only what it needs::

    from mlsys.bq import bq_get, bq_put
    from mlsys.gcs import gcs_get, gcs_put
    from mlsys.models import load_model, save_model
    from mlsys.predict import PredictionJob, open_run, score
"""
