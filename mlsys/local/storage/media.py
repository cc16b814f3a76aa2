"""Content of objects over HTTP: simple, multipart and resumable uploads, and ranged downloads.

Everything streams: pieces gather into batches, one batch is written in a thread while the next one arrives.
"""

import asyncio
import re
import uuid
from collections.abc import AsyncIterator, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import BinaryIO
from urllib.parse import quote

from aiohttp import web

from mlsys.local.errors import ApiError, unsupported
from mlsys.local.faults import Fault
from mlsys.local.http import Routes, take_fault
from mlsys.local.storage.store import Conditions, Incoming, Key, ObjectStore, Resource
from mlsys.local.uploads import content_range, incomplete, multipart, read_json, window

STORE: web.AppKey[ObjectStore] = web.AppKey("store", ObjectStore)
routes = Routes("storage")

OBJECT = "/storage/v1/b/{bucket:[^/]+}/o/{object:[^/]+}"
_UPLOAD = "/upload/storage/v1/b/{bucket:[^/]+}/o"
_BATCH = 1 << 20
_QUANTUM = 256 << 10  # what Google keeps of an unfinished upload is a multiple of this
_TESTS = ("GenerationMatch", "GenerationNotMatch", "MetagenerationMatch", "MetagenerationNotMatch")
PRECONDITIONS = frozenset(f"if{test}" for test in _TESTS)
SOURCE_PRECONDITIONS = frozenset(f"ifSource{test}" for test in _TESTS)
_INSERT = PRECONDITIONS | {"uploadType", "name", "contentEncoding", "upload_id"}
# These leave the meaning of any answer as it is; `fields` would only make it shorter.
_HARMLESS = {"alt", "fields", "prettyPrint", "projection", "quotaUser", "userProject", "key", "project"}
_REFUSED_HEADER = re.compile(r"(?i)x-goog-(copy-source-)?encryption-|if-|x-http-method-override|content-(md5|encoding)")
_HEADERS = {"cacheControl": "Cache-Control", "contentDisposition": "Content-Disposition", "contentType": "Content-Type"}
_HEADERS |= {"contentEncoding": "Content-Encoding", "contentLanguage": "Content-Language"}
_WRITABLE = {*_HEADERS, "metadata", "storageClass"}
_OUTPUT_ONLY = {"kind", "id", "selfLink", "mediaLink", "name", "bucket", "generation", "metageneration", "etag", "size"}
_OUTPUT_ONLY |= {"md5Hash", "crc32c", "componentCount", "updated"}
_OUTPUT_ONLY |= {"timeCreated", "timeDeleted", "timeFinalized", "timeStorageClassUpdated"}


def check_request(operation: str, query: Mapping[str, str], headers: Iterable[str], served: Collection[str]) -> None:
    """Refuse, by name, a parameter or a header that could change the answer and that ``operation`` does not serve."""
    wrong = [f"parameter {name}" for name in query if name not in served and name not in _HARMLESS]
    wrong += [f"header {name}" for name in headers if _REFUSED_HEADER.match(name)]
    if query.get("alt", "json") != ("media" if operation == "objects.get_media" else "json"):
        wrong.append(f"parameter alt={query.get('alt')}")
    if wrong:
        raise unsupported(f"{wrong[0]} of storage.{operation}")


def conditions_of(query: Mapping[str, object], prefix: str = "if") -> Conditions:
    """Return the preconditions of a request."""
    found = {test: number(query, prefix + test) for test in _TESTS}
    return {test: value for test, value in found.items() if value is not None}


def number(query: Mapping[str, object], name: str) -> int | None:
    """Return an integer parameter, None when it is absent."""
    value = query.get(name)
    if value is not None and not re.fullmatch(r"-?[0-9]{1,18}", str(value)):
        raise ApiError(400, "invalid", f"Invalid value for {name}: {value!r} is not an integer")
    return None if value is None else int(str(value))


def object_fields(body: Resource, *, nulls: bool = False) -> Resource:
    """Return the writable metadata in an object's resource, refusing what the twin does not keep."""
    check_shape(body, {"metadata": dict})
    if wrong := [key for key in body if body[key] and key not in _WRITABLE and key not in _OUTPUT_ONLY]:
        raise unsupported(f"object property {wrong[0]}")
    if not all(isinstance(value, str | None) for value in (body.get("metadata") or {}).values()):
        raise ApiError(400, "invalid", "Custom metadata must map strings to strings")
    return {key: body[key] for key in _WRITABLE if key in body and (nulls or body[key] is not None)}


def check_shape(body: object, kinds: Mapping[str, type]) -> None:
    """Refuse a resource that is no JSON object, or has a value of another type than its key's."""
    if not isinstance(body, dict):
        raise ApiError(400, "parseError", f"Parse Error: a JSON object is due, not {body!r}")
    for key, value in body.items():
        due = kinds.get(key, str if key in _WRITABLE else object)
        if value is not None and not isinstance(value, due):
            raise ApiError(400, "invalid", f"Invalid value for {key}: {value!r}")


def object_key(bucket: str, name: object) -> Key:
    """Return the key of an object to be made, if Google allows its name."""
    text = name if isinstance(name, str) else ""
    size = len(text.encode("utf-8", "surrogatepass"))
    if not 1 <= size <= 1024 or re.search(r"[\r\n\ud800-\udfff]", text) or text in (".", ".."):
        raise ApiError(400, "invalid", f"Invalid object name: {name!r}")
    return Key(bucket, text)


# Uploads


@dataclass
class _Upload:
    """An upload under way: where it goes, what came with it, and what is here."""

    store: ObjectStore
    key: Key
    fields: Resource
    promised: dict[str, str]
    conditions: Conditions
    incoming: Incoming
    size: int | None = None
    done: Resource | None = None
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    def commit(self) -> Resource:
        """Check the content against what the client promised, and store it."""
        content = self.incoming.seal()
        for kind, wanted in self.promised.items():
            if wanted != content[kind]:
                message = f'Provided {kind} "{wanted}" doesn\'t match calculated {kind} "{content[kind]}".'
                raise ApiError(400, "invalid", message)
        self.done = self.store.commit(self.incoming.path, content, self.key, self.fields, self.conditions)
        return self.done


@routes.add("POST", _UPLOAD, "objects.insert")
async def _insert(request: web.Request) -> web.StreamResponse:
    """Take an object in one request, or start a resumable upload."""
    check_request("objects.insert", request.query, request.headers, _INSERT)
    kind = request.query.get("uploadType")
    if kind == "media":
        upload = await _upload(request, {}, request.headers.get("Content-Type"))
        return await _take_whole(request, upload, request.content.iter_any())
    if kind == "resumable":
        return await _start(request)
    if kind != "multipart":
        raise ApiError(400, "invalid", f"uploadType must be media, multipart or resumable, got {kind!r}")
    body, content_type, pieces = await multipart(request)
    return await _take_whole(request, await _upload(request, body, content_type), pieces)


async def _upload(request: web.Request, body: Resource, content_type: str | None) -> _Upload:
    store, query = request.app[STORE], request.query
    key = object_key(request.match_info["bucket"], query.get("name", body.get("name")))
    fields = {"contentType": content_type or "application/octet-stream"} | object_fields(body)
    fields |= {"contentEncoding": query["contentEncoding"]} if "contentEncoding" in query else {}
    promised = {kind: body[kind] for kind in ("crc32c", "md5Hash") if body.get(kind)} | _hashes(request)
    return _Upload(store, key, fields, promised, conditions_of(query), await store.run(store.incoming))


async def _take_whole(request: web.Request, upload: _Upload, pieces: AsyncIterator[bytes]) -> web.StreamResponse:
    try:
        await _receive(upload, _damaged(pieces, take_fault(request)))
        return web.json_response(with_links(request, await upload.store.run(upload.commit)))
    finally:
        await upload.store.run(upload.incoming.discard)


async def _start(request: web.Request) -> web.StreamResponse:
    """Open a resumable upload and say where its chunks go."""
    upload = await _upload(request, await read_json(request), request.headers.get("X-Upload-Content-Type"))
    upload.size = number(request.headers, "X-Upload-Content-Length")
    # Google tests the preconditions here as well as at the end, which saves the client the bytes.
    await upload.store.run(upload.store.check_live, upload.key, upload.conditions)
    upload.store.sessions[name := uuid.uuid4().hex] = upload
    location = request.url.with_query({"uploadType": "resumable", "upload_id": name})
    return web.Response(headers={"Location": str(location), "X-GUploader-UploadID": name})


@routes.add("PUT", _UPLOAD, "objects.insert")
async def _take_chunk(request: web.Request) -> web.StreamResponse:
    """Take a chunk of a resumable upload, or say how much of it is here."""
    upload = _session(request)
    first, end, total = content_range(request, upload.size)
    async with upload.lock:
        incoming = upload.incoming
        if upload.done:
            return web.json_response(with_links(request, upload.done))
        if total is not None and upload.size not in (None, total):
            raise ApiError(400, "invalid", f"X-Upload-Content-Length was {upload.size}, now the size is {total}")
        if first is not None:
            if first > incoming.size:
                text = f"Invalid request.  According to the Content-Range header, the upload offset is {first} byte(s)"
                text += f", which exceeds already uploaded size of {incoming.size} byte(s)."
                return web.Response(status=503, text=text)  # the one error that Google does not send as JSON
            keep = end if end == total else end // _QUANTUM * _QUANTUM
            pieces = _damaged(request.content.iter_any(), take_fault(request))
            await _receive(upload, window(pieces, incoming.size - first, keep - first))
        if incoming.size != total:
            return incomplete(request, incoming.size)
        upload.promised |= _hashes(request)
        try:
            return web.json_response(with_links(request, await upload.store.run(upload.commit)))
        except ApiError:
            del upload.store.sessions[request.query["upload_id"]]
            raise
        finally:
            await upload.store.run(incoming.discard)


@routes.add("DELETE", _UPLOAD, "objects.insert")
async def _cancel(request: web.Request) -> web.StreamResponse:
    """Give up a resumable upload."""
    upload = _session(request)
    async with upload.lock:
        upload.store.sessions.pop(request.query["upload_id"], None)
        await upload.store.run(upload.incoming.discard)
    return web.Response(status=499, reason="Client Closed Request")


def _session(request: web.Request) -> _Upload:
    check_request("objects.insert", request.query, request.headers, _INSERT)
    upload = request.app[STORE].sessions.get(request.query.get("upload_id"))
    if upload is None:
        raise ApiError(404, "notFound", "No such upload session: it never was, was cancelled, or the twin restarted")
    return upload


def _hashes(request: web.Request) -> dict[str, str]:
    """Return the checksums in ``X-Goog-Hash: crc32c=…,md5=…`` as an object's resource names them."""
    found = re.findall(r"(crc32c|md5)=([A-Za-z0-9+/=]+)", request.headers.get("X-Goog-Hash", ""))
    return {"md5Hash" if kind == "md5" else kind: value for kind, value in found}


async def _receive(upload: _Upload, pieces: AsyncIterator[bytes]) -> None:
    """Write ``pieces``, a batch in a thread while the next one arrives; when they break off, keep what came."""
    batch: list[bytes] = []
    size, writing = 0, asyncio.ensure_future(asyncio.sleep(0))
    try:
        async for piece in pieces:
            batch.append(piece)
            size += len(piece)
            if size >= _BATCH:
                await writing
                writing = asyncio.ensure_future(upload.store.run(upload.incoming.write, batch))
                batch, size = [], 0
    finally:
        await writing
        await upload.store.run(upload.incoming.write, batch)


async def _damaged(pieces: AsyncIterator[bytes], fault: Fault | None) -> AsyncIterator[bytes]:
    """Yield the pieces as a bad network delivers them: one bit wrong, or the end missing."""
    async for piece in pieces:
        yield fault.damage(piece) if fault else piece
        if fault and fault.kind == "corrupt":
            fault = None
        elif fault and fault.kind == "truncate":
            async for _ in pieces:
                pass


# Downloads


@routes.add("GET", "/download" + OBJECT, "objects.get_media")
async def download(request: web.Request) -> web.StreamResponse:
    """Send an object's content, or the range of it that was asked for."""
    check_request("objects.get_media", request.query, request.headers, PRECONDITIONS | {"generation"})
    store, where = request.app[STORE], request.match_info
    key = Key(where["bucket"], where["object"], number(request.query, "generation"))
    resource, file = await store.run(store.open, key, conditions_of(request.query))
    with file:
        size, span = int(resource["size"]), _span(request.headers.get("Range", ""), int(resource["size"]))
        hashes = f"crc32c={resource['crc32c']},md5={resource['md5Hash']}"
        headers = {header: resource[key] for key, header in _HEADERS.items() if key in resource}
        headers |= {"Accept-Ranges": "bytes", "ETag": resource["etag"], "X-Goog-Hash": hashes}
        headers |= {f"X-Goog-{key.title()}": resource[key] for key in ("generation", "metageneration")}
        headers |= {"X-Goog-Stored-Content-Length": resource["size"], "X-Goog-Storage-Class": resource["storageClass"]}
        headers["X-Goog-Stored-Content-Encoding"] = resource.get("contentEncoding", "identity")
        if resource.get("contentEncoding") == "gzip" and "gzip" not in request.headers.get("Accept-Encoding", ""):
            raise unsupported("gzip content decompressed on the way; accept it as it is (Accept-Encoding: gzip)")
        start, stop = span or (0, size)
        if span:
            if start >= stop:
                return web.Response(status=416, headers={"Content-Range": f"bytes */{size}"})
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
        response = web.StreamResponse(status=206 if span else 200, headers=headers)
        response.content_length = stop - start
        file.seek(start)
        return await _send(request, response, file, stop - start)


async def _send(request: web.Request, response: web.StreamResponse, file: BinaryIO, left: int) -> web.StreamResponse:
    """Send ``left`` bytes of a file, with the fault that this request suffers."""
    store, fault = request.app[STORE], take_fault(request)
    await response.prepare(request)
    while chunk := await store.run(file.read, min(_BATCH, left)):
        left -= len(chunk)
        await response.write(fault.damage(chunk) if fault else chunk)
        if fault and fault.kind == "truncate" and request.transport:
            request.transport.close()  # sends what is buffered, then ends
            break
        fault = None
    return response


def _span(header: str, size: int) -> tuple[int, int] | None:
    """Return the range that a header asks for, empty if it cannot be satisfied; None to send everything."""
    if "," in header:
        raise unsupported("several ranges in one request")
    match = re.fullmatch(r"bytes=([0-9]*)-([0-9]*)", header.strip())
    if not match or match[0] == "bytes=-" or (match[1] and match[2] and int(match[1]) > int(match[2])):
        return None  # as RFC 9110 has it: a range that makes no sense is not there
    if match[1]:
        return int(match[1]), min(int(match[2]) + 1, size) if match[2] else size
    return max(0, size - int(match[2])), size


def with_links(request: web.Request, answer: Resource) -> Resource:
    """Return ``answer`` with the links in its object resources that depend on the address they are served at."""
    if answer["kind"] == "storage#object":
        path = f"storage/v1/b/{answer['bucket']}/o/{quote(answer['name'], safe='')}"
        origin = f"{request.scheme}://{request.host}"
        media = f"{origin}/download/{path}?generation={answer['generation']}&alt=media"
        return answer | {"selfLink": f"{origin}/{path}", "mediaLink": media}
    if answer["kind"] == "storage#objects":
        return answer | {"items": [with_links(request, item) for item in answer["items"]]}
    return answer | {"resource": with_links(request, answer["resource"])} if "resource" in answer else answer
