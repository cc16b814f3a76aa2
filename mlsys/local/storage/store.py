"""Buckets, objects and finalize events on one disk: an SQLite index over plain files.

Content arrives under a temporary name and is checksummed on the way, synced and renamed into place; one transaction
then makes the object visible and queues its event. So after ``kill -9`` an object is there whole or not at all, and its
event is not lost. Files that no row names are swept at the next start.
"""

import asyncio
import base64
import contextlib
import hashlib
import json
import os
import re
import shutil
import sqlite3
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import google_crc32c

from mlsys.local.errors import ApiError

Resource = dict[str, Any]
Conditions = Mapping[str, int]  # GenerationMatch, GenerationNotMatch, MetagenerationMatch, MetagenerationNotMatch
_BUCKET_NAME = re.compile(r"[a-z0-9][a-z0-9._-]+[a-z0-9]")
_NO_BUCKET_NAME = re.compile(r"\.\.|^goog|g[o0]{2}g[l1]e|^\d+\.\d+\.\d+\.\d+$")
# Names are BLOBs: SQLite then orders them by their UTF-8 bytes, as Google does, and the end of a prefix is one byte up.
_SCHEMA = """
PRAGMA journal_mode = WAL;
PRAGMA synchronous = FULL;
CREATE TABLE IF NOT EXISTS buckets (name TEXT PRIMARY KEY, project TEXT, resource TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS objects (bucket TEXT, name BLOB, generation INTEGER, live INTEGER NOT NULL,
    resource TEXT NOT NULL, PRIMARY KEY (bucket, name, generation)) WITHOUT ROWID;
CREATE UNIQUE INDEX IF NOT EXISTS live_objects ON objects (bucket, name) WHERE live;
CREATE TABLE IF NOT EXISTS outbox (generation INTEGER PRIMARY KEY, event TEXT NOT NULL, queued REAL NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0, due REAL NOT NULL DEFAULT 0);
CREATE INDEX IF NOT EXISTS outbox_due ON outbox (due);
CREATE TABLE IF NOT EXISTS last_generation (value INTEGER NOT NULL);
INSERT INTO last_generation SELECT 0 WHERE NOT EXISTS (SELECT * FROM last_generation);
UPDATE outbox SET due = 0;
"""


class Key(NamedTuple):
    """Which object: the live one, or a generation of it."""

    bucket: str
    name: str
    generation: int | None = None


def merge_patch(old: Resource, patch: Resource) -> Resource:
    """Return ``old`` changed by a JSON merge patch, in which null deletes a key."""
    new = dict(old)
    for key, value in patch.items():
        new[key] = merge_patch(new.get(key) or {}, value) if isinstance(value, dict) else value
        if value is None:
            del new[key]
    return new


def check_conditions(conditions: Conditions, found: Resource | None, *, read: bool = False) -> None:
    """Raise Google's 412, or 304 for a read that need not be answered, unless ``found`` meets the preconditions."""
    # Google counts a missing object as generation 0.
    actual = {what: int(found.get(what.lower(), 0)) if found else 0 for what in ("Generation", "Metageneration")}
    failed = any(conditions.get(f"{what}Match", value) != value for what, value in actual.items())
    unmodified = any(conditions.get(f"{what}NotMatch") == value for what, value in actual.items())
    if failed or (unmodified and not read):
        raise ApiError(412, "conditionNotMet", "At least one of the pre-conditions you specified did not hold.")
    if unmodified:
        raise ApiError(304, "notModified", "Not Modified")


class Incoming:
    """Content on its way in: a file under a temporary name, and its running checksums."""

    def __init__(self, path: Path) -> None:
        self.path, self.size = path, 0
        self._crc32c, self._md5 = google_crc32c.Checksum(), hashlib.md5(usedforsecurity=False)
        path.touch()

    def write(self, pieces: list[bytes]) -> None:
        """Append ``pieces``. A write that fails half-way leaves what was there before."""
        data = b"".join(pieces)
        with self.path.open("r+b") as file:
            file.seek(self.size)
            file.write(data)
        self._crc32c.update(data)
        self._md5.update(data)
        self.size += len(data)

    def seal(self) -> Resource:
        """Bring the file to the disk, and return its size and checksums as an object's resource has them."""
        with self.path.open("r+b") as file:
            file.truncate(self.size)
            os.fsync(file.fileno())
        crc32c, md5 = (base64.b64encode(checksum.digest()).decode() for checksum in (self._crc32c, self._md5))
        return {"size": str(self.size), "crc32c": crc32c, "md5Hash": md5}

    def discard(self) -> None:
        """Remove the file, unless it was committed."""
        self.path.unlink(missing_ok=True)


class ObjectStore:
    """Buckets and objects in a folder that one server process owns. Safe to use from several threads.

    Parameters
    ----------
    folder
        Where everything is kept; created when missing.
    on_finalize
        Called after an event was queued, from any thread.
    """

    def __init__(self, folder: Path, on_finalize: Callable[[], None] = lambda: None) -> None:
        self.on_finalize = on_finalize
        self.sessions: dict[str, Any] = {}  # resumable uploads under way; they end with the process
        self._blobs, self._incoming, self._lock = folder / "blobs", folder / "incoming", threading.RLock()
        shutil.rmtree(self._incoming, ignore_errors=True)
        for path in (self._blobs, self._incoming):
            path.mkdir(parents=True, exist_ok=True)
        self._db = sqlite3.connect(folder / "index.sqlite", isolation_level=None, check_same_thread=False)
        self._db.executescript(_SCHEMA)
        known = {(bucket, str(n)) for bucket, n in self._db.execute("SELECT bucket, generation FROM objects")}
        for path in self._blobs.glob("*/*"):
            if (path.parent.name, path.name) not in known:
                path.unlink()
        self._pool = ThreadPoolExecutor(8, "storage")  # not the default pool, which BigQuery's slow queries may fill

    def close(self) -> None:
        """Finish the work under way and let go of the files."""
        self._pool.shutdown()
        self._db.close()

    async def run[**P, T](self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a blocking ``function`` in one of the store's threads."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, lambda: function(*args, **kwargs))

    # Buckets

    def create_bucket(self, name: str, project: str, fields: Resource) -> Resource:
        """Create a bucket; names are unique over all projects."""
        sized = len(name) <= (222 if "." in name else 63) and max(map(len, name.split("."))) <= 63
        if not sized or not _BUCKET_NAME.fullmatch(name) or _NO_BUCKET_NAME.search(name):
            raise ApiError(400, "invalid", f"Invalid bucket name: '{name}'")
        resource = {"kind": "storage#bucket", "id": name, "name": name, "location": "US", "storageClass": "STANDARD"}
        moment = _now()
        resource = _stamped(resource | {"projectNumber": "0", "timeCreated": moment} | fields, moment)
        try:
            with self._transaction():
                self._db.execute("INSERT INTO buckets VALUES (?, ?, ?)", (name, project, json.dumps(resource)))
        except sqlite3.IntegrityError:
            raise ApiError(409, "conflict", f"The bucket {name} exists already; bucket names are global.") from None
        return resource

    def bucket(self, name: str) -> Resource:
        """Return a bucket's resource."""
        row = self._one("SELECT resource FROM buckets WHERE name = ?", name)
        if row is None:
            raise ApiError(404, "notFound", f"The specified bucket does not exist: {name}")
        return json.loads(row[0])

    def buckets(self, project: str, prefix: str, start: str, limit: int) -> list[Resource]:
        """Return the buckets of a project in order, from the name ``start``."""
        query = "SELECT resource FROM buckets WHERE project = ? AND name >= ? AND name < ? ORDER BY name LIMIT ?"
        with self._lock:
            rows = self._db.execute(query, (project, max(prefix, start), prefix + "\x7f", limit))
            return [json.loads(row[0]) for row in rows]

    def patch_bucket(self, name: str, patch: Resource) -> Resource:
        """Change a bucket's metadata."""
        with self._transaction():
            resource = _stamped(merge_patch(self.bucket(name), patch), _now())
            self._db.execute("UPDATE buckets SET resource = ? WHERE name = ?", (json.dumps(resource), name))
        return resource

    def delete_bucket(self, name: str) -> None:
        """Delete a bucket that holds no object, not even a noncurrent one."""
        with self._transaction():
            self.bucket(name)
            if self._one("SELECT 1 FROM objects WHERE bucket = ? LIMIT 1", name):
                raise ApiError(409, "conflict", f"The bucket you tried to delete is not empty: {name}")
            self._db.execute("DELETE FROM buckets WHERE name = ?", (name,))

    # Objects

    def incoming(self) -> Incoming:
        """Return a place for new content."""
        return Incoming(self._incoming / uuid.uuid4().hex)

    def commit(self, path: Path, content: Resource, key: Key, fields: Resource, conditions: Conditions) -> Resource:
        """Make a file the live generation of an object and queue its finalize event, in one transaction.

        Parameters
        ----------
        path
            The synced file; it moves.
        content
            Its size and checksums, as `Incoming.seal` returns them.
        fields
            The metadata that the client gave.
        """
        with self._transaction():
            bucket, old, moment = self.bucket(key.bucket), self._find(key), _now()
            check_conditions(conditions, old)
            tick = "UPDATE last_generation SET value = max(value + 1, ?) RETURNING value"
            generation = self._one(tick, time.time_ns() // 1000)[0]
            resource = {"kind": "storage#object", "id": f"{key.bucket}/{key.name}/{generation}", "name": key.name}
            resource |= {"bucket": key.bucket, "generation": str(generation), "storageClass": bucket["storageClass"]}
            times = dict.fromkeys(("timeCreated", "timeStorageClassUpdated", "timeFinalized"), moment)
            resource = _stamped(resource | fields | content | times, moment)
            target = self._blob(resource)
            target.parent.mkdir(exist_ok=True)
            path.replace(target)
            _sync_folder(target.parent)
            if old:
                self._retire(old, bucket)
            text = json.dumps(resource)
            row = (key.bucket, key.name.encode(), generation, text)
            self._db.execute("INSERT INTO objects VALUES (?, ?, ?, 1, ?)", row)
            event = (generation, text, time.time())
            self._db.execute("INSERT INTO outbox (generation, event, queued) VALUES (?, ?, ?)", event)
        self._drop_content(old)
        self.on_finalize()
        return resource

    def get(self, key: Key, conditions: Conditions | None = None, *, read: bool = True) -> Resource:
        """Return an object's resource."""
        with self._lock:
            self.bucket(key.bucket)
            found = self._find(key)
        if found is None:
            raise ApiError(404, "notFound", f"No such object: {key.bucket}/{key.name}")
        check_conditions(conditions or {}, found, read=read)
        return found

    def check_live(self, key: Key, conditions: Conditions) -> None:
        """Raise unless the live object, or its absence, meets the preconditions now."""
        with self._lock:
            self.bucket(key.bucket)
            check_conditions(conditions, self._find(key))

    def open(self, key: Key, conditions: Conditions | None = None) -> tuple[Resource, BinaryIO]:
        """Return an object's resource and its content."""
        with self._lock:  # so that no overwrite removes the file in between
            found = self.get(key, conditions)
            return found, self._blob(found).open("rb")

    def change(self, key: Key, conditions: Conditions, edit: Callable[[Resource], Resource]) -> Resource:
        """Replace an object's metadata by what ``edit`` makes of it."""
        with self._transaction():
            resource = _stamped(edit(self.get(key, conditions, read=False)), _now())
            self._execute_on(resource, "UPDATE objects SET resource = ?", json.dumps(resource))
        return resource

    def delete(self, key: Key, conditions: Conditions) -> None:
        """Delete an object. Without a generation, a bucket with versioning keeps it as a noncurrent one."""
        with self._transaction():
            found = self.get(key, conditions, read=False)
            self._retire(found, self.bucket(key.bucket) if key.generation is None else {})
        self._drop_content(found)

    def copy(self, source: Resource, key: Key, fields: Resource, conditions: Conditions) -> Resource:
        """Make a copy of ``source``, a resource that `get` returned, without reading its bytes."""
        path = self._incoming / uuid.uuid4().hex
        with self._lock:
            self.get(Key(source["bucket"], source["name"], int(source["generation"])))  # it may be gone by now
            try:
                path.hardlink_to(self._blob(source))  # content never changes, so two names may share it
            except OSError:
                shutil.copyfile(self._blob(source), path)
        content = {key: source[key] for key in ("size", "crc32c", "md5Hash")}
        try:
            return self.commit(path, content, key, fields, conditions)
        finally:
            path.unlink(missing_ok=True)

    def page(
        self,
        bucket: str,
        *,
        prefix: str = "",
        delimiter: str = "",
        start: str = "",
        end: str = "",
        versions: bool = False,
        matches: Callable[[str], bool] = lambda _: True,
        limit: int = 1000,
        token: str = "",
    ) -> tuple[list[Resource], list[str], str]:
        """Return objects and common prefixes in order of their names, and the token of the next page, if there is one.

        A common prefix costs one look-up, however many objects it stands for.
        """
        head, cut = prefix.encode(), delimiter.encode()
        stop = min(_after(head), end.encode() or b"\xff")
        generation, _, name = (token or f"0:{max(prefix, start, key=str.encode)}").partition(":")
        position = (name.encode(), int(generation))
        query = "SELECT name, generation, resource FROM objects WHERE bucket = ? AND name >= ? AND name < ? "
        query += "AND (name > ? OR generation >= ?) " + ("" if versions else "AND live ") + "ORDER BY name, generation"
        items: list[Resource] = []
        prefixes: list[str] = []
        with self._lock:
            self.bucket(bucket)
            while position:
                rows, position = self._db.execute(query, (bucket, position[0], stop, *position)), None
                for name, generation, resource in rows:
                    if not matches(name.decode()):
                        continue
                    if len(items) + len(prefixes) == limit:
                        return items, prefixes, f"{generation}:{name.decode()}"
                    at = name.find(cut, len(head)) if cut else -1
                    if at >= 0:
                        prefixes.append(name[: at + len(cut)].decode())
                        position = (_after(name[: at + len(cut)]), 0)
                        break
                    items.append(json.loads(resource))
        return items, prefixes, ""

    # Events that wait for their delivery

    def due_events(self, limit: int) -> list[tuple[Resource, float, int]]:
        """Return events to deliver now, the longest due first: the object, when it was queued, failed attempts."""
        query = "SELECT event, queued, attempts FROM outbox WHERE due <= ? ORDER BY due, generation LIMIT ?"
        with self._lock:
            return [(json.loads(row[0]), *row[1:]) for row in self._db.execute(query, (time.time(), limit))]

    def settle(self, event: Resource) -> None:
        """Forget an event that was delivered, or given up."""
        with self._transaction():
            self._db.execute("DELETE FROM outbox WHERE generation = ?", (int(event["generation"]),))

    def postpone(self, event: Resource, seconds: float) -> None:
        """Count a failed attempt; the next one is due in ``seconds``."""
        with self._transaction():
            values = (time.time() + seconds, int(event["generation"]))
            self._db.execute("UPDATE outbox SET attempts = attempts + 1, due = ? WHERE generation = ?", values)

    def pending(self) -> tuple[int, float]:
        """Return how many events wait, and in how many seconds the next one that is not due yet will be."""
        now = time.time()
        count, due = self._one("SELECT count(*), min(CASE WHEN due > ? THEN due END) FROM outbox", now)
        return count, (due or float("inf")) - now

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    def _one(self, query: str, *args: object) -> tuple | None:
        with self._lock:
            return self._db.execute(query, args).fetchone()

    def _find(self, key: Key) -> Resource | None:
        query = "SELECT resource FROM objects WHERE bucket = ? AND name = ? AND "
        args = () if key.generation is None else (key.generation,)
        row = self._one(query + ("generation = ?" if args else "live"), key.bucket, key.name.encode(), *args)
        return json.loads(row[0]) if row else None

    def _execute_on(self, resource: Resource, query: str, *args: object) -> None:
        key = (resource["bucket"], resource["name"].encode(), int(resource["generation"]))
        self._db.execute(query + " WHERE bucket = ? AND name = ? AND generation = ?", (*args, *key))

    def _retire(self, old: Resource, bucket: Resource) -> None:
        """Make ``old`` noncurrent if ``bucket`` keeps versions, else remove its row."""
        if bucket.get("versioning", {}).get("enabled"):
            text = json.dumps(old | dict.fromkeys(("timeDeleted", "updated"), _now()))
            self._execute_on(old, "UPDATE objects SET live = 0, resource = ?", text)
        else:
            self._execute_on(old, "DELETE FROM objects")

    def _drop_content(self, old: Resource | None) -> None:
        """Remove the file of an object that is gone; what cannot be removed yet is swept at the next start."""
        with self._lock, contextlib.suppress(OSError):
            if old and self._find(Key(old["bucket"], old["name"], int(old["generation"]))) is None:
                self._blob(old).unlink()

    def _blob(self, resource: Resource) -> Path:
        return self._blobs / resource["bucket"] / resource["generation"]


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _stamped(resource: Resource, moment: str) -> Resource:
    """Return a new state of a resource, made at ``moment``: metageneration one up, and an etag of its own."""
    metageneration = int(resource.get("metageneration", 0)) + 1
    etag = base64.b64encode(f"{resource.get('generation', '')}/{metageneration}".encode()).decode()
    return resource | {"metageneration": str(metageneration), "updated": moment, "etag": etag}


def _after(prefix: bytes) -> bytes:
    """Return the least key above every key that starts with ``prefix``; UTF-8 never holds 0xFF."""
    return prefix[:-1] + bytes([prefix[-1] + 1]) if prefix else b"\xff"


def _sync_folder(path: Path) -> None:
    """Bring a rename to the disk, where folders can be synced (not on Windows)."""
    if os.name == "posix":
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
