"""Airflow DAG: predict once a day which passengers of the Titanic survive.

What a run does, and what it promises, stands in ``mlsys_dags``; the page in Airflow has the links. Tables are passed in
full, as they belong to the data engineering team; infra/models.auto.tfvars names the same ones, for the job's roles.
"""

from mlsys_dags import environment, prediction_dag

ENV = environment()
DATASET = "titanic" if ENV == "local" else f"titanic_{ENV}"  # the demo's, on a laptop

dag = prediction_dag(
    model_name="titanic-survival",
    model_version="latest" if ENV in ("local", "dev") else "champion",
    source="shoufianesys.titanic.passengers",
    output_table=f"shoufianesys.{DATASET}.predictions",
    id_columns=["passenger_id"],
    schedule="0 0 * * *",
)
