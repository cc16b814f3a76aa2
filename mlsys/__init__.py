"""Take a model from a notebook to scheduled, audited predictions in BigQuery.

The parts are imported by name, so that each costs only what it needs::

    from mlsys.bq import bq_get, bq_put
    from mlsys.gcs import gcs_get, gcs_put
    from mlsys.models import load_model, save_model
    from mlsys.predict import PredictionJob, open_run, score

In a notebook, ``%load_ext mlsys`` adds the cell magic ``%%bq``.
"""

from typing import Any


def load_ipython_extension(shell: Any) -> None:
    """Do what ``%load_ext mlsys`` asks for; see `mlsys.jupyter`."""
    from mlsys.jupyter import load_ipython_extension

    load_ipython_extension(shell)


def unload_ipython_extension(shell: Any) -> None:
    """Undo it."""
    from mlsys.jupyter import unload_ipython_extension

    unload_ipython_extension(shell)
