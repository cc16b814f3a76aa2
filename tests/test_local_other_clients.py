"""Other people's clients on `mlsys up`, each in a process of its own, configured by nothing but what `up` prints.

The functions without ``test_`` are what such a user's script would hold: they import nothing of mlsys.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from google.api_core import exceptions

from tests.conftest import TwinUnderTest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def printed(_session_twin: TwinUnderTest) -> Iterator[str]:
    """What `mlsys up` prints, while it holds on to the session's twin."""
    command = [sys.executable, "-c", "from mlsys.cli import main; main()", "up"]
    up = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    lines = []
    for line in up.stdout:
        lines.append(line)
        if line.startswith("Ctrl-C"):
            break
    assert lines, "`mlsys up` printed nothing"
    yield "".join(lines)
    up.terminate()
    up.wait()
    up.stdout.close()


@pytest.fixture(scope="module")
def environment(printed: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a shell into which the printed ``export`` lines were pasted, and nothing else of Google's."""
    exports = re.findall(r"^ +export (.*)$", printed, re.MULTILINE)
    given = dict(word.split("=", 1) for line in exports for word in shlex.split(line))
    home = str(tmp_path_factory.mktemp("home"))
    return {"PATH": os.environ["PATH"], "HOME": home, "CLOUDSDK_CONFIG": home} | given


def run(environment: dict[str, str], script: Callable, *arguments: str) -> None:
    """Run a function of this module in a process with that environment."""
    code = f"import sys; from {__name__} import {script.__name__} as script; script(*sys.argv[1:])"
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr


# google-cloud-bigquery


def bigquery_tables(dataset: str) -> None:
    from google.api_core import exceptions
    from google.cloud import bigquery

    client = bigquery.Client()
    made = client.create_dataset(f"{dataset}_made")
    table = bigquery.Table(made.table("t"), [bigquery.SchemaField("a", "INT64"), bigquery.SchemaField("s", "STRING")])
    table.time_partitioning = bigquery.TimePartitioning()
    client.create_table(table)
    assert client.get_table(table).time_partitioning.type_ == "DAY"
    assert f"{dataset}_made".endswith(made.dataset_id)
    assert made.dataset_id in [item.dataset_id for item in client.list_datasets()]
    assert [item.table_id for item in client.list_tables(made)] == ["t"]
    assert client.insert_rows_json(table, [{"a": 1, "s": "x"}, {"a": 2}]) == []
    assert [error["index"] for error in client.insert_rows_json(table, [{"a": "no"}])] == [0]
    assert [tuple(row) for row in client.list_rows(table)] == [(1, "x"), (2, None)]
    client.delete_table(table)
    client.delete_dataset(made)
    try:
        client.get_dataset(made)
    except exceptions.NotFound:
        return
    raise AssertionError("the dataset is still there")


def bigquery_loads(dataset: str) -> None:
    import io

    import pandas as pd
    from google.cloud import bigquery

    client = bigquery.Client()
    schema = [bigquery.SchemaField("a", "INT64"), bigquery.SchemaField("s", "STRING")]
    config = bigquery.LoadJobConfig(schema=schema, write_disposition="WRITE_APPEND")
    frame = pd.DataFrame({"a": [1, 2], "s": ["x", None]})
    assert client.load_table_from_dataframe(frame, f"{dataset}.t").result().output_rows == 2
    config.source_format, config.skip_leading_rows = "CSV", 1
    client.load_table_from_file(io.BytesIO(b"a,s\n3,y\n"), f"{dataset}.t", job_config=config).result()
    config = bigquery.LoadJobConfig(schema=schema, source_format="NEWLINE_DELIMITED_JSON")
    client.load_table_from_file(io.BytesIO(b'{"a": "4"}\n'), f"{dataset}.t", job_config=config).result()
    client.load_table_from_json([{"a": 5, "s": "z"}], f"{dataset}.t", job_config=config).result()
    rows = client.query_and_wait(f"SELECT a, s FROM {dataset}.t ORDER BY a")
    assert [tuple(row) for row in rows] == [(1, "x"), (2, None), (3, "y"), (4, None), (5, "z")]


def bigquery_reads(grpc_address: str) -> None:
    import grpc
    from google.cloud import bigquery
    from google.cloud.bigquery_storage import BigQueryReadClient
    from google.cloud.bigquery_storage_v1.services.big_query_read.transports import BigQueryReadGrpcTransport

    client = bigquery.Client()
    sql = "SELECT x, CAST(x AS STRING) AS s FROM UNNEST(GENERATE_ARRAY(1, 30000)) AS x"
    dry = client.query(sql, job_config=bigquery.QueryJobConfig(dry_run=True))
    assert (dry.state, dry.total_bytes_processed) == ("DONE", 0)
    config = bigquery.QueryJobConfig(query_parameters=[bigquery.ScalarQueryParameter("least", "INT64", 29_999)])
    rows = client.query(f"SELECT x FROM ({sql}) WHERE x >= @least ORDER BY x", job_config=config).result()
    assert [row.x for row in rows] == [29_999, 30_000]
    channel = grpc.insecure_channel(grpc_address, options=[("grpc.max_receive_message_length", -1)])
    read_client = BigQueryReadClient(transport=BigQueryReadGrpcTransport(channel=channel))
    over_rest = client.query(sql).to_dataframe(create_bqstorage_client=False)
    over_grpc = client.query(sql).to_dataframe(bqstorage_client=read_client)
    assert over_rest.shape == over_grpc.shape == (30_000, 2)
    assert over_rest.dtypes.equals(over_grpc.dtypes)
    assert sorted(over_rest["x"]) == sorted(over_grpc["x"])
    assert client.query_and_wait("SELECT 1 AS x").to_dataframe().x.tolist() == [1]  # one page: nothing to dial for


def test_google_cloud_bigquery_tables(environment, dataset):
    run(environment, bigquery_tables, dataset)


def test_google_cloud_bigquery_loads(environment, dataset):
    run(environment, bigquery_loads, dataset)


def test_google_cloud_bigquery_reads(environment, twin):
    run(environment, bigquery_reads, twin.grpc)


# google-cloud-storage


def storage_objects(bucket_name: str, folder: str) -> None:
    from google.cloud import storage
    from google.cloud.storage import transfer_manager

    client = storage.Client()
    bucket = client.bucket(bucket_name)
    here, there = Path(folder) / "here", Path(folder) / "there"
    data = os.urandom(5 << 20)
    here.write_bytes(data)
    blob = bucket.blob("big", chunk_size=1 << 20)
    blob.upload_from_filename(here)
    for kind in (transfer_manager.THREAD, transfer_manager.PROCESS):
        transfer_manager.download_chunks_concurrently(blob, there, chunk_size=1 << 20, worker_type=kind, max_workers=2)
        assert there.read_bytes() == data
    with blob.open("rb", chunk_size=1 << 18) as file:
        file.seek(3 << 20)
        assert file.read(10) == data[3 << 20 :][:10]
    with bucket.blob("text/a.txt").open("w") as file:
        file.write("one\ntwo\n")
    with bucket.blob("text/a.txt").open("r") as file:
        assert file.readlines() == ["one\n", "two\n"]
    bucket.blob("b.txt").upload_from_string("b", if_generation_match=0)
    bucket.copy_blob(bucket.blob("text/a.txt"), bucket, "text/c.txt")
    assert bucket.blob("text/c.txt").download_as_text() == "one\ntwo\n"
    assert [item.name for item in client.list_blobs(bucket, prefix="text/")] == ["text/a.txt", "text/c.txt"]
    listing = client.list_blobs(bucket, delimiter="/")
    assert ([item.name for item in listing], listing.prefixes) == (["b.txt", "big"], {"text/"})
    bucket.delete_blobs(["text/a.txt", "text/c.txt"])
    bucket.delete_blobs(["b.txt", "big"])
    assert (list(client.list_blobs(bucket)), bucket.get_blob("big")) == ([], None)
    bucket.delete()
    assert client.lookup_bucket(bucket_name) is None


def test_google_cloud_storage(environment, bucket, tmp_path):
    run(environment, storage_objects, bucket, str(tmp_path))


# pandas-gbq


def gbq_frames(dataset: str, client: str) -> None:
    import pandas as pd
    import pandas_gbq
    from google.cloud import bigquery

    given = {"bigquery_client": bigquery.Client()} if client == "a client" else {}
    frame = pd.DataFrame({"a": [1, 2], "s": ["x", None], "f": [0.5, None], "b": [True, False]})
    frame["t"] = pd.to_datetime(["2024-02-29", None], utc=True)
    rows = {"replace": 2, "append": 4}
    table = dataset.split(".")[1] + ".t"
    for mode in ("replace", "append", "replace"):
        pandas_gbq.to_gbq(frame, table, if_exists=mode, progress_bar=False, **given)
        read = pandas_gbq.read_gbq(f"SELECT * FROM {table} ORDER BY a", progress_bar_type=None, **given)
        assert len(read) == rows[mode]
    assert [str(kind) for kind in read.dtypes] == ["Int64", "str", "float64", "boolean", "datetime64[us, UTC]"]
    pd.testing.assert_frame_equal(read, frame, check_dtype=False)
    assert len(pandas_gbq.read_gbq(table, progress_bar_type=None, max_results=1, **given)) == 1
    pandas_gbq.to_gbq(frame, f"{table}_csv", api_method="load_csv", progress_bar=False, **given)
    many = "SELECT x FROM UNNEST(GENERATE_ARRAY(1, 30000)) AS x"
    assert len(pandas_gbq.read_gbq(many, progress_bar_type=None, **given)) == 30_000
    try:
        pandas_gbq.to_gbq(frame, table, if_exists="fail", progress_bar=False, **given)
    except pandas_gbq.exceptions.TableCreationError:
        return
    raise AssertionError("the table was there already")


@pytest.mark.parametrize("client", ["by itself", "a client"])
def test_pandas_gbq(environment, dataset, client):
    run(environment, gbq_frames, dataset, client)


# bq, where Google Cloud's SDK is installed: no package registry has it


def printed_bq(printed: str) -> str:
    """Return the printed `bq` command up to its own subcommand, as one line of shell."""
    command = printed.partition("\n  bq ")[2].partition(" query ")[0]
    return command.replace("\\\n", " ").strip()


def test_the_printed_bq_command_is_whole(printed, twin):
    assert printed_bq(printed).startswith(f"bq --api {twin.http} --project_id ")
    assert "--discovery_file" in printed_bq(printed)


if shutil.which("bq") and shutil.which("gcloud"):

    def test_bq(environment, printed, bigquery_client, dataset, tmp_path):
        people, name = tmp_path / "people.csv", dataset.split(".")[1]
        people.write_text("name,age\nAda,36\nBob,7\n")
        count = f"SELECT COUNT(*) AS n FROM {name}.people"
        script = f"""set -e
            command=({printed_bq(printed)} --headless)
            twin() {{ "${{command[@]}}" "$@"; }}
            twin mk --table {name}.people name:STRING,age:INTEGER
            twin load --skip_leading_rows=1 {name}.people {people}
            twin ls {name}
            twin show --format=json {name}.people
            twin head --format=csv {name}.people
            twin query --nouse_legacy_sql --dry_run '{count}'
            twin query --nouse_legacy_sql --format=json '{count}'
            twin rm -f -t {name}.people"""
        done = subprocess.run(["bash", "-c", script], env=environment, capture_output=True, text=True, timeout=200)
        assert done.returncode == 0, done.stdout + done.stderr
        with pytest.raises(exceptions.NotFound):
            bigquery_client.get_table(f"{dataset}.people")
        for shown in ("successfully created", "TABLE", '"numRows":"2"', "Ada,36", "will process", '[{"n":"2"}]'):
            assert shown in done.stdout
