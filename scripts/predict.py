"""The prediction job: pull data, pull the model, predict, add metadata, push the predictions.

Cloud Run runs this file; the DAG passes each argument as an environment variable. See ``scripts/README.md``.
"""

from mlsys.predict import Part, PredictionJob, RunRecord, open_run, score


def pull_predict_push(job: PredictionJob) -> RunRecord:
    """Make one prediction run, or one task's share of it, and return what it did.

    Raises
    ------
    mlsys.errors.MlsysError
        The run was refused or failed; nothing of it is visible in the output table.
    """
    with open_run(job) as run:  # pins the rows in BigQuery, and loads the verified model from Cloud Storage
        run.share_out(predict_part)  # over this task's processes
        run.push()  # adds the metadata; all rows become visible at once, when the last task is done
    return run.record


def predict_part(part: Part) -> None:
    """Score some of the rows; what comes of it waits in a staging table in BigQuery."""
    part.load(score(part.model, rows, part.id_columns, max_rejects=part.max_rejects) for rows in part.rows)


def main(arguments: list[str] | None = None) -> None:
    """Run as a command: ``predict.py --help``."""
    from mlsys.cli import predict_main

    predict_main(arguments)


if __name__ == "__main__":
    main()
