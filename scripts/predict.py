"""The prediction job: pull data, pull the model, predict, add metadata, push the predictions.

Cloud Run runs this file; the DAG passes each argument as an environment variable. See ``scripts/README.md``.
"""

from mlsys.models import load_model
from mlsys.predict import PredictionJob, RunRecord, add_metadata, open_run, score


def pull_predict_push(job: PredictionJob) -> RunRecord:
    """Make one prediction run and return what it did.

    Raises
    ------
    mlsys.errors.MlsysError
        The run was refused or failed; nothing of it is visible in the output table.
    """
    model = load_model(job.model_name, job.model_version)  # from Cloud Storage, verified before it is unpickled
    run = open_run(job, model)  # the rows from BigQuery, checked against the model's signature
    scored = (score(model, rows, job.id_columns) for rows in run.batches)
    stamped = (add_metadata(table, run.stamp) for table in scored)
    return run.publish(stamped)  # to BigQuery, all rows at once or none


def main(arguments: list[str] | None = None) -> None:
    """Run as a command: ``predict.py --help``."""
    from mlsys.cli import predict_main

    predict_main(arguments)


if __name__ == "__main__":
    main()
