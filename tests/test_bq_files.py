"""Files on disk become tables: their types are read off the values, or the file is refused."""

from datetime import date, datetime

import pyarrow as pa
import pytest
from pyarrow import parquet

from mlsys.bq import bq_get, bq_put_file
from mlsys.cli import main
from mlsys.errors import AlreadyExistsError, NotFoundError, SchemaError

CSV = "n,share,ok,day,moment,text\n1,0.5,true,2024-01-31,2024-01-31 10:00:00,NA\n,,,,,\n3,2,false,2024-02-01,,a\n"


def test_csv_becomes_a_table_of_its_types(dataset, tmp_path):
    """Empty cells are NULL, and a text that says NA is a text."""
    (tmp_path / "rows.csv").write_text(CSV)
    assert bq_put_file(tmp_path / "rows.csv", f"{dataset}.rows") == 3
    frame = bq_get(f"SELECT * FROM `{dataset}.rows` ORDER BY n NULLS LAST").astype(object)
    assert frame.iloc[0].tolist()[:4] == [1, 0.5, True, date(2024, 1, 31)]
    assert frame["moment"][0].to_pydatetime() == datetime(2024, 1, 31, 10)
    assert frame["text"][0] == "NA"
    assert frame.iloc[2].isna().all()


def test_parquet_keeps_its_types(dataset, tmp_path):
    """All of Arrow's that BigQuery has."""
    table = pa.table({"n": pa.array([1, None], pa.int64()), "names": [["a"], ["b", "c"]]})
    parquet.write_table(table, tmp_path / "rows.parquet")
    assert bq_put_file(tmp_path / "rows.parquet", f"{dataset}.rows") == 2
    assert [list(names) for names in bq_get(f"SELECT names FROM `{dataset}.rows` ORDER BY n")["names"]] == [
        ["b", "c"],
        ["a"],
    ]


def test_rows_that_are_there_are_kept(dataset, tmp_path):
    """Unless it is said that they are to be replaced."""
    (tmp_path / "rows.csv").write_text("n\n1\n")
    bq_put_file(tmp_path / "rows.csv", f"{dataset}.rows")
    with pytest.raises(AlreadyExistsError):
        bq_put_file(tmp_path / "rows.csv", f"{dataset}.rows")
    bq_put_file(tmp_path / "rows.csv", f"{dataset}.rows", "WRITE_TRUNCATE")
    assert len(bq_get(f"{dataset}.rows")) == 1


@pytest.mark.parametrize(
    ("name", "text", "error", "words"),
    [
        ("nothing.csv", None, NotFoundError, "there is no file .*nothing.csv"),
        ("rows.xlsx", "n\n1\n", SchemaError, "must be .csv or .parquet, got rows.xlsx"),
        ("rows.csv", "n,m\n1\n", SchemaError, "rows.csv cannot be read: .*Expected 2 columns, got 1"),
        ("rows.csv", "", SchemaError, "rows.csv cannot be read: Empty CSV file"),
        ("rows.parquet", "n\n1\n", SchemaError, "rows.parquet cannot be read"),
    ],
    ids=["missing", "kind", "ragged", "empty", "no-parquet"],
)
def test_what_cannot_be_read_is_named(name, text, error, words, dataset, tmp_path):
    """Before anything is written."""
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(error, match=words):
        bq_put_file(tmp_path / name, f"{dataset}.rows")


def test_command_creates_the_dataset_when_told_to(model_name, tmp_path, capsys):
    """A newcomer's first table; without the option, the message says how."""
    (tmp_path / "rows.csv").write_text("n,text\n1,NA\n2,b\n")
    table = f"shoufianesys.{model_name.replace('-', '_')}.rows"
    with pytest.raises(SystemExit) as done:
        main(["put", str(tmp_path / "rows.csv"), table])
    assert done.value.code == NotFoundError.exit_code
    assert "mlsys put --create-dataset" in capsys.readouterr().err
    with pytest.raises(SystemExit) as done:
        main(["put", str(tmp_path / "rows.csv"), table, "--create-dataset", "--null", "NA"])
    assert not done.value.code
    assert capsys.readouterr().out == f"2 rows in {table}\n"
    assert bq_get(table)["text"].isna().sum() == 1
