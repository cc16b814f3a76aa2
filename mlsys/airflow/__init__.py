"""Airflow beside mlsys: DAGs that run on the twin, and their checks. Nothing here is imported by a DAG, or by a job."""

from mlsys.airflow.twin import variables

__all__ = ["variables"]
