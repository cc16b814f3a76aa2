"""A prediction run: rows from BigQuery through a verified model into a slice of the output table."""

from mlsys.predict.job import PredictionJob, RunRecord
from mlsys.predict.metadata import Metadata
from mlsys.predict.parts import Part
from mlsys.predict.preflight import Input, Preflight, check, look_at_input
from mlsys.predict.run import Run, open_run
from mlsys.predict.scoring import Scored, score

__all__ = [
    "Input",
    "Metadata",
    "Part",
    "PredictionJob",
    "Preflight",
    "Run",
    "RunRecord",
    "Scored",
    "check",
    "look_at_input",
    "open_run",
    "score",
]
