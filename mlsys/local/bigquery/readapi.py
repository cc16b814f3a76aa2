"""The BigQuery Storage Read API over gRPC: pinned sessions, several streams, exact offsets, Arrow only."""

import re
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pyarrow as pa
from google.cloud.bigquery_storage_v1 import types as messages

from mlsys.local.bigquery import types
from mlsys.local.bigquery.snapshots import Snapshot
from mlsys.local.bigquery.statements import TableRef
from mlsys.local.bigquery.store import Engine
from mlsys.local.errors import ApiError, unsupported
from mlsys.local.faults import Fault

_SERVICE = "google.cloud.bigquery.storage.v1.BigQueryRead"
_ROWS_A_STREAM = 1 << 20  # a client that leaves the choice to the server gets one stream for so many rows
_CODES = {
    400: grpc.StatusCode.INVALID_ARGUMENT, 403: grpc.StatusCode.PERMISSION_DENIED, 404: grpc.StatusCode.NOT_FOUND,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED, 500: grpc.StatusCode.INTERNAL, 503: grpc.StatusCode.UNAVAILABLE,
}  # fmt: skip


def serve(engine: Engine, host: str = "127.0.0.1", port: int = 0) -> tuple[grpc.Server, int]:
    """Start the service; return it with its port."""
    service = _ReadService(engine)
    request, answer = messages.CreateReadSessionRequest, messages.ReadSession
    handlers = {
        "CreateReadSession": grpc.unary_unary_rpc_method_handler(
            _answering(service.create), request.deserialize, answer.serialize
        ),
        "ReadRows": grpc.unary_stream_rpc_method_handler(service.read, messages.ReadRowsRequest.deserialize, bytes),
    }
    server = grpc.server(ThreadPoolExecutor(32, "bigquery-read"), options=[("grpc.max_send_message_length", -1)])
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(_SERVICE, handlers),))
    bound = server.add_insecure_port(f"{host}:{port}")
    server.start()
    return server, bound


def _answering(method: Callable) -> Callable:
    def call(request: object, context: grpc.ServicerContext) -> object:
        try:
            return method(request)
        except ApiError as exc:
            return context.abort(_CODES.get(exc.code, grpc.StatusCode.UNKNOWN), exc.message)

    return call


class _ReadService:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def create(self, request: messages.CreateReadSessionRequest) -> messages.ReadSession:
        wanted, fault = request.read_session, self._engine.faults.take("bigqueryread.CreateReadSession")
        if fault:
            time.sleep(fault.delay_s)
            if fault.kind == "error":
                raise fault.error()
        options = wanted.read_options
        ref = _table(wanted)
        snapshot = self._engine.freeze(ref, list(options.selected_fields))
        name = uuid.uuid4().hex
        self._engine.snapshots.add(name, snapshot)
        streams = _streams(request, snapshot)
        path = f"projects/{ref.project}/locations/us/sessions/{name}"
        return messages.ReadSession(
            name=path,
            table=wanted.table,
            data_format=messages.DataFormat.ARROW,
            arrow_schema=_schema(snapshot),
            read_options=options,
            streams=[messages.ReadStream(name=f"{path}/streams/{n}-{streams}") for n in range(streams)],
            estimated_row_count=snapshot.num_rows,
            estimated_total_bytes_scanned=snapshot.nbytes,
        )

    def read(self, request: messages.ReadRowsRequest, context: grpc.ServicerContext) -> Iterator[bytes]:
        try:
            snapshot, start, stop = self._stream(request.read_stream)
        except ApiError as exc:
            context.abort(_CODES[exc.code], exc.message)
        if request.offset > stop - start:
            message = f"offset {request.offset} is beyond the {stop - start} rows of the stream"
            context.abort(grpc.StatusCode.OUT_OF_RANGE, message)
        start += request.offset
        fault = self._engine.faults.take("bigqueryread.ReadRows")
        head = messages.ReadRowsResponse.serialize(messages.ReadRowsResponse(arrow_schema=_schema(snapshot)))
        for message, rows in _suffering(fault, context, snapshot, start, stop):
            yield head + _response(message, rows)
            head = b""  # the schema comes with the first rows only

    def _stream(self, path: str) -> tuple[Snapshot, int, int]:
        """Return the snapshot of a stream, and where its share of the rows starts and stops."""
        found = re.fullmatch(r"projects/[^/]+/locations/us/sessions/(\w+)/streams/(\d+)-(\d+)", path)
        snapshot = found and self._engine.snapshots.get(found[1])
        if not snapshot:
            raise ApiError(404, "notFound", f"The session of stream {path} was not found or has expired")
        number, streams = int(found[2]), int(found[3])
        return snapshot, snapshot.num_rows * number // streams, snapshot.num_rows * (number + 1) // streams


def _suffering(
    fault: Fault | None, context: grpc.ServicerContext, snapshot: Snapshot, start: int, stop: int
) -> Iterator[tuple[pa.Buffer, int]]:
    """Yield the messages of a stream; after the fault's rows it waits, or it breaks."""
    if fault:
        pause = min(start + fault.after_rows, stop)
        yield from snapshot.messages(start, pause)
        if fault.kind == "error":
            context.abort(_CODES.get(fault.status, grpc.StatusCode.UNKNOWN), fault.message)
        if fault.kind == "stream" and fault.grpc_status == "OK":
            return
        if fault.kind == "stream":
            context.abort(grpc.StatusCode[fault.grpc_status], fault.message)
        left = threading.Event()  # set when the client gives up, so that its thread is free again
        context.add_callback(left.set)
        left.wait(fault.delay_s)
        start = pause
    yield from snapshot.messages(start, stop)


def _schema(snapshot: Snapshot) -> messages.ArrowSchema:
    return messages.ArrowSchema(serialized_schema=types.wire_schema(snapshot.fields).serialize().to_pybytes())


def _table(wanted: messages.ReadSession) -> TableRef:
    """Return the table that a session asks for, after refusing what is not done here."""
    if wanted.data_format != messages.DataFormat.ARROW:
        raise unsupported("the Storage Read API in another format than ARROW")
    if wanted.read_options.sample_percentage:
        raise unsupported("sample_percentage of a read session")
    if wanted.read_options.row_restriction:
        raise unsupported("row_restriction of a read session; query the rows")
    snapshot_time: Any = wanted.table_modifiers.snapshot_time  # proto-plus makes a datetime of it
    if snapshot_time and abs(snapshot_time.timestamp() - time.time()) > 1:
        raise unsupported("a read session in the past (snapshot_time)")
    found = re.fullmatch(r"projects/([^/]+)/datasets/([^/]+)/tables/([^/]+)", wanted.table)
    if not found:
        raise ApiError(400, "invalid", f"table must be projects/…/datasets/…/tables/…, got {wanted.table!r}")
    return TableRef(*found.groups())


def _streams(request: messages.CreateReadSessionRequest, snapshot: Snapshot) -> int:
    most = request.max_stream_count or -(-snapshot.num_rows // _ROWS_A_STREAM)
    return min(max(most, request.preferred_min_stream_count), snapshot.num_rows)


def _response(message: pa.Buffer, rows: int) -> bytes:
    """Return a ``ReadRowsResponse`` on the wire.

    Written by hand because protobuf copies the rows twice on their way into a message and out again: field 4 holds the
    batch (its field 1 the bytes), field 6 the number of rows.
    """
    body = b"\x0a" + _varint(message.size)
    return b"".join((b"\x22", _varint(len(body) + message.size), body, memoryview(message), b"\x30", _varint(rows)))


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    out.append(number)
    return bytes(out)
