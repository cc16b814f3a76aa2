"""The twin's Storage Read API, through Google's own client."""

import datetime as dt
import io
import itertools
import time

import grpc
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from google.api_core import exceptions
from google.cloud import bigquery
from google.cloud.bigquery_storage_v1 import types

from mlsys.local.faults import Fault

ROWS = 100_000


def path_of(table_id: str) -> str:
    """Return a table's name as the Read API writes it."""
    return "projects/{}/datasets/{}/tables/{}".format(*table_id.split("."))


def open_session(client, table_id: str, streams: int = 1, data_format="ARROW", **options) -> types.ReadSession:
    """Open a session over a table."""
    session = types.ReadSession(table=path_of(table_id), data_format=data_format, read_options=options)
    return client.create_read_session(parent="projects/p", read_session=session, max_stream_count=streams)


def numbers_of(reader) -> list[int]:
    """Return the column ``n`` of a stream."""
    return reader.to_arrow()["n"].to_pylist()


@pytest.fixture
def numbers(bigquery_client, dataset) -> str:
    """A table of 100,000 numbered rows, in messages of several sizes."""
    table_id, file = f"{dataset}.numbers", io.BytesIO()
    pq.write_table(pa.table({"n": pa.array(range(ROWS)), "s": [f"row {n}" for n in range(ROWS)]}), file)
    file.seek(0)
    config = bigquery.LoadJobConfig(source_format="PARQUET")
    bigquery_client.load_table_from_file(file, table_id, job_config=config).result()
    return table_id


def test_streams_share_the_rows_equally(read_client, numbers):
    session = open_session(read_client, numbers, streams=4)
    shares = [numbers_of(read_client.read_rows(stream.name)) for stream in session.streams]
    assert [len(share) for share in shares] == [ROWS // 4] * 4
    assert sorted(itertools.chain(*shares)) == list(range(ROWS))


def test_the_server_chooses_one_stream_for_a_small_table(read_client, numbers):
    assert len(open_session(read_client, numbers, streams=0).streams) == 1


def test_an_empty_table_has_no_streams(bigquery_client, read_client, dataset):
    bigquery_client.query(f"CREATE TABLE `{dataset}.empty` (n INT64)").result()
    assert len(open_session(read_client, f"{dataset}.empty").streams) == 0
    rows = bigquery_client.query(f"SELECT n FROM `{dataset}.empty`").result()
    assert rows.to_arrow(bqstorage_client=read_client).schema == pa.schema({"n": pa.int64()})


@pytest.mark.parametrize("offset", [0, 1, 12_345, ROWS - 1, ROWS])
def test_a_stream_resumes_at_any_offset(read_client, numbers, offset):
    (stream,) = open_session(read_client, numbers).streams
    rows = list(read_client.read_rows(stream.name, offset=offset))
    assert sum(batch.row_count for batch in rows) == ROWS - offset
    if offset < ROWS:
        assert numbers_of(read_client.read_rows(stream.name, offset=offset))[:2] == list(range(offset, ROWS))[:2]


def test_an_offset_beyond_the_end_is_refused(read_client, numbers):
    (stream,) = open_session(read_client, numbers).streams
    with pytest.raises(exceptions.OutOfRange):
        next(iter(read_client.read_rows(stream.name, offset=ROWS + 1)))


def test_columns_come_in_the_tables_order(read_client, numbers):
    session = open_session(read_client, numbers, selected_fields=["s", "N"])
    assert read_client.read_rows(session.streams[0].name).to_arrow().column_names == ["n", "s"]
    (stream,) = open_session(read_client, numbers, selected_fields=["s"]).streams
    assert read_client.read_rows(stream.name).to_arrow().column_names == ["s"]
    with pytest.raises(exceptions.InvalidArgument, match="No such field: q"):
        open_session(read_client, numbers, selected_fields=["q"])


def test_a_query_result_can_be_narrowed(bigquery_client, read_client, numbers):
    job = bigquery_client.query(f"SELECT n, n * 2 AS m, s FROM `{numbers}` ORDER BY n")
    job.result()
    table_id = ".".join(job.destination.to_bqstorage().split("/")[1::2])
    session = open_session(read_client, table_id, selected_fields=["m", "n"])
    table = read_client.read_rows(session.streams[0].name).to_arrow()
    assert table.slice(ROWS - 2).to_pydict() == {"n": [99_998, 99_999], "m": [199_996, 199_998]}


def test_a_session_is_pinned(bigquery_client, read_client, numbers):
    (stream,) = open_session(read_client, numbers).streams
    bigquery_client.query(f"DELETE FROM `{numbers}` WHERE n < 90000").result()
    assert len(numbers_of(read_client.read_rows(stream.name))) == ROWS
    bigquery_client.delete_table(numbers)
    assert len(numbers_of(read_client.read_rows(stream.name))) == ROWS


def test_the_schema_comes_first_and_names_special_types(bigquery_client, read_client, dataset):
    sql = """SELECT JSON '{"a": 1}' AS j, DATETIME '2024-01-01 00:00:00' AS m, TIMESTAMP '2024-01-01' AS t,
             NUMERIC '1.5' AS n, [1] AS a, STRUCT(DATE '2024-01-01' AS d, TIME '10:00:00' AS c) AS r"""
    bigquery_client.query(f"CREATE TABLE `{dataset}.t` AS {sql}").result()
    (stream,) = open_session(read_client, f"{dataset}.t").streams
    first = next(iter(read_client.read_rows(stream.name)))
    schema = pa.ipc.read_schema(pa.py_buffer(first.arrow_schema.serialized_schema))
    types_ = {field.name: getattr(field.type, "storage_type", field.type) for field in schema}
    assert types_ == {
        "j": pa.string(), "m": pa.timestamp("us"), "t": pa.timestamp("us", "UTC"), "n": pa.decimal128(38, 9),
        "a": pa.list_(pa.int64()), "r": pa.struct({"d": pa.date32(), "c": pa.time64("us")}),
    }  # fmt: skip
    assert b"google:sqlType:json" in first.arrow_schema.serialized_schema
    assert b"google:sqlType:datetime" in first.arrow_schema.serialized_schema
    batch = pa.ipc.read_record_batch(pa.py_buffer(first.arrow_record_batch.serialized_record_batch), schema)
    assert batch.num_rows == first.row_count == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data_format": "AVRO"}, "another format than ARROW"),
        ({"sample_percentage": 10.0}, "sample_percentage"),
        ({"row_restriction": "n > 1"}, "row_restriction"),
        ({"selected_fields": ["s.x"]}, "inside a RECORD"),
    ],
    ids=["avro", "sample", "restriction", "nested"],
)
def test_what_is_not_exact_is_refused(read_client, numbers, change, message):
    with pytest.raises(exceptions.InvalidArgument, match=f"not supported locally: .*{message}"):
        open_session(read_client, numbers, **change)


def test_the_past_is_refused_and_now_is_not(read_client, numbers):
    def open_at(moment):
        session = types.ReadSession(table=path_of(numbers), data_format="ARROW")
        session.table_modifiers.snapshot_time = moment
        return read_client.create_read_session(parent="projects/p", read_session=session)

    assert open_at(dt.datetime.now(dt.UTC)).streams
    with pytest.raises(exceptions.InvalidArgument, match="in the past"):
        open_at(dt.datetime.now(dt.UTC) - dt.timedelta(hours=1))


def test_missing_tables_views_and_sessions_are_named(bigquery_client, read_client, dataset, numbers):
    with pytest.raises(exceptions.NotFound, match="Not found: Table"):
        open_session(read_client, f"{dataset}.nothing")
    bigquery_client.query(f"CREATE VIEW `{dataset}.v` AS SELECT n FROM `{numbers}`").result()
    with pytest.raises(exceptions.InvalidArgument, match="VIEW"):
        open_session(read_client, f"{dataset}.v")
    with pytest.raises(exceptions.NotFound, match="not found or has expired"):
        next(iter(read_client.read_rows("projects/p/locations/us/sessions/gone/streams/0-1")))


def test_a_stream_cannot_be_split(read_client, numbers):
    (stream,) = open_session(read_client, numbers).streams
    with pytest.raises(exceptions.MethodNotImplemented):
        read_client.split_read_stream(request={"name": stream.name})


def test_the_client_resumes_a_broken_stream(read_client, numbers, twin):
    (stream,) = open_session(read_client, numbers).streams
    for rows in (12_345, 1, 0):
        twin.faults.add(Fault("bigqueryread.ReadRows", "stream", grpc_status="UNAVAILABLE", after_rows=rows))
    assert numbers_of(read_client.read_rows(stream.name)) == list(range(ROWS))
    assert twin.faults.hits() == {"bigqueryread.ReadRows": 3}


def test_a_break_that_the_client_does_not_resume_can_be_resumed_by_hand(read_client, numbers, twin):
    (stream,) = open_session(read_client, numbers).streams
    twin.faults.add(Fault("bigqueryread.ReadRows", "stream", grpc_status="ABORTED", after_rows=777))
    seen = []
    with pytest.raises(exceptions.Aborted, match="injected fault"):
        seen.extend(message.row_count for message in read_client.read_rows(stream.name))
    assert numbers_of(read_client.read_rows(stream.name, offset=777)) == list(range(777, ROWS))


@pytest.mark.parametrize("rows", [0, 777], ids=["before the first row", "in between"])
def test_a_stream_can_be_slow(read_client, numbers, twin, rows):
    (stream,) = open_session(read_client, numbers).streams
    twin.faults.add(Fault("bigqueryread.ReadRows", "slow", delay_s=0.5, after_rows=rows))
    arrived, waited = [0], [time.monotonic()]
    for message in read_client.read_rows(stream.name):
        arrived.append(arrived[-1] + message.row_count)
        waited.append(time.monotonic())
    slow = next(at for at in range(1, len(waited)) if waited[at] - waited[at - 1] > 0.4)
    assert (arrived[slow - 1], arrived[-1]) == (rows, ROWS)


def test_a_reader_that_waits_no_longer_frees_the_server(read_client, numbers, twin):
    (stream,) = open_session(read_client, numbers).streams
    twin.faults.add(Fault("bigqueryread.ReadRows", "slow", delay_s=60, times=40))  # more than the server has threads
    for _ in range(40):
        with pytest.raises(exceptions.DeadlineExceeded):
            next(iter(read_client.read_rows(stream.name, timeout=0.05)))
    assert len(numbers_of(read_client.read_rows(stream.name, timeout=10))) == ROWS


def test_a_session_can_fail_to_open(read_client, numbers, twin):
    twin.faults.add(Fault("bigqueryread.CreateReadSession", "error", status=403))
    with pytest.raises(exceptions.PermissionDenied, match="injected fault"):
        open_session(read_client, numbers)


def test_a_reader_that_leaves_does_not_hold_the_server(read_client, numbers):
    (stream,) = open_session(read_client, numbers).streams
    for _ in range(40):  # more than the server has threads
        reader = read_client.read_rows(stream.name)
        next(iter(reader))
        reader.cancel()
    started = time.monotonic()
    assert len(numbers_of(read_client.read_rows(stream.name))) == ROWS
    assert time.monotonic() - started < 10


def test_the_service_speaks_plain_grpc(twin, numbers):
    """Any gRPC client can call it: an unknown method is an error of gRPC's own."""
    with grpc.insecure_channel(twin.grpc) as channel:
        call = channel.unary_unary("/google.cloud.bigquery.storage.v1.BigQueryRead/Nothing")
        with pytest.raises(grpc.RpcError) as caught:
            call(b"", timeout=5)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
