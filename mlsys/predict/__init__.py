"""A prediction run: rows from BigQuery through a verified model into a slice of the output table."""

from mlsys.predict.job import PredictionJob, RunRecord
from mlsys.predict.run import Run, open_run
from mlsys.predict.scoring import add_metadata, score

__all__ = ["PredictionJob", "Run", "RunRecord", "add_metadata", "open_run", "score"]
