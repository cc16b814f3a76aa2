"""Rows frozen in a file: what a query answered and what a read session is pinned to, by one mechanism.

The file holds Arrow IPC messages, memory-mapped and without a name, so it vanishes with the process. The Read API sends
the messages as they lie there; REST pages are slices without a copy. A file and not memory also for speed: what it
costs is the page cache, while memory that is kept makes the next result fault in fresh pages, three times as slow.
"""

import mmap
import tempfile
import threading
import time
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from pathlib import Path

import pyarrow as pa

from mlsys.local.bigquery import types
from mlsys.local.bigquery.statements import Schema

_MESSAGE_BYTES = 512 << 10  # measured: twice as fast as 2 MiB, whose memory both ends fault in anew each time


class Snapshot:
    """Rows of one schema that no longer change.

    Parameters
    ----------
    messages
        The serialized batches, one after the other.
    ends, rows
        Where each message ends, and how many rows there are up to there; both start with 0.
    """

    def __init__(self, fields: Schema, messages: pa.Buffer, ends: list[int], rows: list[int]) -> None:
        self.fields, self.schema = fields, types.arrow_schema(fields)
        self.num_rows, self.nbytes = rows[-1], ends[-1]
        self._messages, self._ends, self._rows = messages, ends, rows

    @classmethod
    def write(cls, folder: Path, fields: Schema, batches: Iterable[pa.RecordBatch]) -> "Snapshot":
        """Freeze ``batches``, cast to what ``fields`` say; raise where a value does not fit."""
        schema, ends, rows = types.arrow_schema(fields), [0], [0]
        with tempfile.TemporaryFile(dir=folder) as file:
            for batch in batches:
                for piece in _pieces(types.conform(batch, schema)):
                    ends.append(ends[-1] + file.write(piece.serialize()))
                    rows.append(rows[-1] + piece.num_rows)
            file.flush()
            messages = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if ends[-1] else b""
        return cls(fields, pa.py_buffer(messages), ends, rows)

    def described(self, fields: Schema) -> "Snapshot":
        """Return the same rows under ``fields`` that say the same types, but other modes or descriptions."""
        return Snapshot(fields, self._messages, self._ends, self._rows)

    @property
    def place(self) -> int:
        """Return what two snapshots have in common that share their rows."""
        return id(self._messages)

    def batches(self, start: int = 0, stop: int | None = None) -> Iterator[pa.RecordBatch]:
        """Yield the rows from ``start`` to ``stop``, without copying them."""
        for message, (low, high) in self._found(start, stop):
            batch = pa.ipc.read_record_batch(message, self.schema)
            yield batch.slice(low, high - low)

    def messages(self, start: int = 0, stop: int | None = None) -> Iterator[tuple[pa.Buffer, int]]:
        """Yield the same rows as serialized batches with their number of rows."""
        for message, (low, high) in self._found(start, stop):
            batch = pa.ipc.read_record_batch(message, self.schema)
            whole = (low, high) == (0, batch.num_rows)
            yield (message if whole else batch.slice(low, high - low).serialize()), high - low

    def _found(self, start: int, stop: int | None) -> Iterator[tuple[pa.Buffer, tuple[int, int]]]:
        """Yield the messages that hold rows from ``start`` to ``stop``, each with the part of its rows that counts."""
        stop = self.num_rows if stop is None else min(stop, self.num_rows)
        number = bisect_right(self._rows, start) - 1
        while start < stop and number < len(self._rows) - 1 and self._rows[number] < stop:
            (low, high), (first, last) = self._ends[number : number + 2], self._rows[number : number + 2]
            yield self._messages.slice(low, high - low), (max(start, first) - first, min(stop, last) - first)
            number += 1


def _pieces(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    step = max(1, batch.num_rows * _MESSAGE_BYTES // max(1, batch.nbytes))
    yield from (batch.slice(start, step) for start in range(0, batch.num_rows, step))


class Snapshots:
    """The snapshots alive, by name: bounded in number, bytes and age; the one unused for longest goes first."""

    def __init__(self, folder: Path, *, most: int = 1000, most_bytes: int = 4 << 30, age_s: float = 24 * 3600) -> None:
        self.folder, self._most, self._most_bytes, self._age_s = folder, most, most_bytes, age_s
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, tuple[float, Snapshot]] = OrderedDict()

    def add(self, name: str, snapshot: Snapshot) -> None:
        """Keep ``snapshot`` under ``name``."""
        with self._lock:
            self._kept[name] = (time.monotonic(), snapshot)
            while len(self._kept) > 1 and (len(self._kept) > self._most or self._bytes() > self._most_bytes):
                self._kept.popitem(last=False)

    def _bytes(self) -> int:
        unique = {kept.place: kept.nbytes for _, kept in self._kept.values()}  # a result and its sessions share one
        return sum(unique.values())

    def get(self, name: str) -> Snapshot | None:
        """Return a snapshot, or None when it is gone."""
        with self._lock:
            born, snapshot = self._kept.get(name, (0.0, None))
            if snapshot is None or time.monotonic() - born > self._age_s:
                self._kept.pop(name, None)
                return None
            self._kept.move_to_end(name)
            return snapshot

    def drop(self, name: str) -> None:
        """Let a snapshot go."""
        with self._lock:
            self._kept.pop(name, None)
