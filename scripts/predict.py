"""The prediction job: pull data, pull the model, predict, add metadata, push the predictions.

Cloud Run runs this file; the DAG passes each argument as an environment variable. See ``scripts/README.md``.
"""

from mlsys.predict import Part, PredictionJob, RunRecord, add_metadata, open_run, score


def pull_predict_push(job: PredictionJob) -> RunRecord:
    """Make one prediction run, or one task's share of it, and return what it did.

    Raises
    ------
    mlsys.errors.MlsysError
        The run was refused or failed; nothing of it is visible in the output table.
    """
    with open_run(job) as run:  # pins the rows in BigQuery, and loads the verified model from Cloud Storage
        run.share_out(predict_part)  # over this task's processes
    return run.record  # all rows became visible at once, when the last task was done


def predict_part(part: Part) -> None:
    """Score some of the rows."""
    scored = (score(part.model, rows, part.id_columns, max_rejects=part.max_rejects) for rows in part.rows)
    part.load(add_metadata(batch, part.stamp) for batch in scored)  # pushed to BigQuery, not visible yet


def main(arguments: list[str] | None = None) -> None:
    """Run as a command: ``predict.py --help``."""
    from mlsys.cli import predict_main

    predict_main(arguments)


if __name__ == "__main__":
    main()
