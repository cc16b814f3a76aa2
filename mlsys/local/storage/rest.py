"""The Cloud Storage JSON API over an `ObjectStore`: buckets, metadata, listing, copies and batches.

Every operation says which parameters it serves; any other is refused by name. Content goes through `media`.
"""

import contextlib
import email.parser
import email.policy
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from urllib.parse import parse_qsl, unquote, urlsplit

from aiohttp import web

from mlsys.local.errors import ApiError, unsupported
from mlsys.local.storage.media import (
    OBJECT,
    PRECONDITIONS,
    SOURCE_PRECONDITIONS,
    STORE,
    check_request,
    check_shape,
    conditions_of,
    download,
    number,
    object_fields,
    object_key,
    read_json,
    routes,
    with_links,
)
from mlsys.local.storage.store import Conditions, Key, ObjectStore, Resource, merge_patch

__all__ = ["STORE", "routes"]

_BUCKETS = "/storage/v1/b"
_BUCKET = "/storage/v1/b/{bucket:[^/]+}"
_TARGET = "/b/{to_bucket:[^/]+}/o/{to_object:[^/]+}"
_IF_METAGENERATION = {"ifMetagenerationMatch", "ifMetagenerationNotMatch"}
_BUCKET_WRITABLE = {"location", "storageClass", "labels", "versioning", "iamConfiguration"}
_BUCKET_OUTPUT_ONLY = {"kind", "id", "name", "projectNumber", "metageneration", "etag", "timeCreated", "updated"}


@dataclass(frozen=True)
class _Call:
    """One request for metadata, alone or in a batch."""

    store: ObjectStore
    path: Mapping[str, str]
    query: Mapping[str, str]
    body: Resource

    @property
    def key(self) -> Key:
        return Key(self.path["bucket"], self.path["object"], number(self.query, "generation"))

    @property
    def conditions(self) -> Conditions:
        return conditions_of(self.query)

    @property
    def limit(self) -> int:
        asked = number(self.query, "maxResults")
        if asked is not None and asked < 1:
            raise ApiError(400, "invalid", f"Invalid value for maxResults: {asked}")
        return min(asked or 1000, 1000)


_Operation = Callable[[_Call], Resource | None]
_operations: list[tuple[str, re.Pattern[str], str, set[str], _Operation]] = []


def _serve(method: str, path: str, name: str, *served: str) -> Callable[[_Operation], _Operation]:
    """Serve the decorated function as ``method path``, by itself and in batches."""

    def register(function: _Operation) -> _Operation:
        async def handler(request: web.Request) -> web.StreamResponse:
            if name == "objects.get" and request.query.get("alt") == "media":
                return await download(request)
            check_request(name, request.query, request.headers, served)
            store = request.app[STORE]
            call = _Call(store, request.match_info, request.query, await read_json(request))
            answer = await store.run(function, call)
            return web.json_response(with_links(request, answer)) if answer else web.Response(status=204)

        routes.add(method, path, name)(handler)
        pattern = re.compile(re.sub(r"\{(\w+):([^}]+)\}", r"(?P<\1>\2)", path))
        _operations.append((method, pattern, name, set(served), function))
        return function

    return register


# Buckets


@_serve("POST", _BUCKETS, "buckets.insert")
def _insert_bucket(call: _Call) -> Resource:
    return call.store.create_bucket(str(call.body.get("name", "")), call.query.get("project", ""), _bucket_fields(call))


@_serve("GET", _BUCKETS, "buckets.list", "prefix", "maxResults", "pageToken")
def _list_buckets(call: _Call) -> Resource:
    project, prefix, token = (call.query.get(key, "") for key in ("project", "prefix", "pageToken"))
    items = call.store.buckets(project, prefix, token, call.limit + 1)
    more = {"nextPageToken": items[call.limit]["name"]} if len(items) > call.limit else {}
    return {"kind": "storage#buckets", "items": items[: call.limit], **more}


@_serve("GET", _BUCKET, "buckets.get", *_IF_METAGENERATION)
def _get_bucket(call: _Call) -> Resource:
    return call.store.bucket(call.path["bucket"], call.conditions)


@_serve("PATCH", _BUCKET, "buckets.patch", *_IF_METAGENERATION)
def _patch_bucket(call: _Call) -> Resource:
    name, patch = call.path["bucket"], _bucket_fields(call)
    if patch.get("location", location := call.store.bucket(name)["location"]) != location:
        raise ApiError(400, "invalid", f"The location of bucket {name} cannot change")
    return call.store.patch_bucket(name, patch, call.conditions)


@_serve("DELETE", _BUCKET, "buckets.delete", *_IF_METAGENERATION)
def _delete_bucket(call: _Call) -> None:
    call.store.delete_bucket(call.path["bucket"], call.conditions)


def _bucket_fields(call: _Call) -> Resource:
    known = _BUCKET_WRITABLE | _BUCKET_OUTPUT_ONLY
    check_shape(call.body, dict.fromkeys(("labels", "versioning", "iamConfiguration"), dict) | {"location": str})
    if wrong := [key for key, value in call.body.items() if value and key not in known]:
        raise unsupported(f"bucket property {wrong[0]}")
    return {key: value for key, value in call.body.items() if key in _BUCKET_WRITABLE}


# Objects


@_serve("GET", OBJECT, "objects.get", *PRECONDITIONS, "generation")
def _get_object(call: _Call) -> Resource:
    return call.store.get(call.key, call.conditions)


@_serve("PATCH", OBJECT, "objects.patch", *PRECONDITIONS, "generation")
def _patch_object(call: _Call) -> Resource:
    return _edit(call, lambda found: merge_patch(found, object_fields(call.body, nulls=True)))


@_serve("PUT", OBJECT, "objects.update", *PRECONDITIONS, "generation")
def _update_object(call: _Call) -> Resource:
    def replaced(found: Resource) -> Resource:
        kept = {key: value for key, value in found.items() if key not in object_fields(found)}
        return {"storageClass": found["storageClass"]} | kept | object_fields(call.body)

    return _edit(call, replaced)


@_serve("DELETE", OBJECT, "objects.delete", *PRECONDITIONS, "generation")
def _delete_object(call: _Call) -> None:
    call.store.delete(call.key, call.conditions)


def _edit(call: _Call, edit: Callable[[Resource], Resource]) -> Resource:
    def checked(found: Resource) -> Resource:
        new = edit(found)
        if new.get("storageClass") != found["storageClass"]:
            raise unsupported("a storage class changed by patch; rewrite the object")
        if found.get("customTime") not in (None, new.get("customTime")):
            raise unsupported("a customTime that is set already and changes")
        return {key: value for key, value in new.items() if value != {}}

    return call.store.change(call.key, call.conditions, checked)


_COPY = (*PRECONDITIONS, *SOURCE_PRECONDITIONS, "sourceGeneration")


@_serve("POST", OBJECT + "/copyTo" + _TARGET, "objects.copy", *_COPY)
def _copy(call: _Call) -> Resource:
    source_key = Key(call.path["bucket"], call.path["object"], number(call.query, "sourceGeneration"))
    source = call.store.get(source_key, conditions_of(call.query, "ifSource"), read=False)
    fields, given = object_fields(source), object_fields(call.body)
    del fields["storageClass"]  # a copy gets its bucket's default
    if not fields.get("metadata", {}).keys() <= given.get("metadata", fields.get("metadata", {})).keys():
        raise unsupported("a copy that leaves out some of the source's custom metadata")
    key = object_key(call.path["to_bucket"], call.path["to_object"])
    return call.store.copy(source, key, fields | given, call.conditions)


@_serve("POST", OBJECT + "/rewriteTo" + _TARGET, "objects.rewrite", *_COPY, "maxBytesRewrittenPerCall")
def _rewrite(call: _Call) -> Resource:
    made = _copy(call)
    sizes = {"totalBytesRewritten": made["size"], "objectSize": made["size"]}
    return {"kind": "storage#rewriteResponse", **sizes, "done": True, "resource": made}


@_serve("POST", OBJECT + "/compose", "objects.compose", "ifGenerationMatch", "ifMetagenerationMatch")
def _compose(call: _Call) -> Resource:
    sources, fields = call.body.get("sourceObjects") or [], object_fields(call.body.get("destination") or {})
    if wrong := [key for key in call.body if key not in ("kind", "sourceObjects", "destination")]:
        raise unsupported(f"{wrong[0]} of storage.objects.compose")
    check_shape(call.body, {"sourceObjects": list})
    for source in sources:
        check_shape(source, {"name": str, "objectPreconditions": dict})
    if not 1 <= len(sources) <= 32:
        raise ApiError(400, "invalid", f"The number of source components must be 1 to 32, got {len(sources)}")
    key, incoming = object_key(call.path["bucket"], call.path["object"]), call.store.incoming()
    try:
        with contextlib.ExitStack() as opened:
            parts = []
            for source in sources:
                which = Key(key.bucket, str(source.get("name")), number(source, "generation"))
                conditions = conditions_of(source.get("objectPreconditions") or {})
                parts.append(call.store.open(which, conditions, read=False))
                opened.enter_context(parts[-1][1])
            for _, file in parts:
                while piece := file.read(1 << 20):
                    incoming.write([piece])
        content = incoming.seal() | {"componentCount": sum(found.get("componentCount", 1) for found, _ in parts)}
        del content["md5Hash"]
        return call.store.commit(incoming.path, content, key, fields, call.conditions)
    finally:
        incoming.discard()


_LIST = {"prefix": "prefix", "delimiter": "delimiter", "startOffset": "start", "endOffset": "end", "pageToken": "token"}


@_serve("GET", _BUCKET + "/o", "objects.list", *_LIST, "versions", "matchGlob", "maxResults")
def _list_objects(call: _Call) -> Resource:
    query, glob = call.query, call.query.get("matchGlob")
    if glob and query.get("delimiter"):
        raise unsupported("matchGlob together with delimiter")
    if not re.fullmatch(r"(\d+:.*)?", query.get("pageToken", ""), re.DOTALL):
        raise ApiError(400, "invalid", f"Invalid page token: {query['pageToken']!r}")
    where = {argument: query[name] for name, argument in _LIST.items() if name in query}
    matches = glob_matcher(glob) if glob else lambda _: True
    versions = query.get("versions", "").lower() == "true"
    found = call.store.page(call.path["bucket"], **where, versions=versions, matches=matches, limit=call.limit)
    items, prefixes, token = found
    answer = {"kind": "storage#objects", "items": items, "prefixes": prefixes, "nextPageToken": token}
    return {key: value for key, value in answer.items() if value or key == "items"}


def glob_matcher(glob: str) -> Callable[[str], bool]:
    """Return the test that ``matchGlob`` stands for.

    ``*`` stops at a slash and ``**`` does not; ``?``, ``[a-z]`` and ``{a,b}`` are as in a shell. Google does not say
    whether ``?`` matches a slash, nor whether ``**/`` matches nothing: a name on which that decides is refused.
    """
    narrow = {"*": "[^/]*", "**": ".*", "?": "[^/]", "**/": ".*/", "{": "(?:", "}": ")"}
    wide = narrow | {"?": ".", "**/": "(?:.*/)?"}
    parts = re.findall(r"\*\*/|\*+|\[[^]\[!^\\/][^]\[\\/]*\]|.", glob, re.DOTALL)
    depth, patterns = 0, ["", ""]
    for part in parts:
        depth += {"{": 1, "}": -1}.get(part, 0)
        if depth < 0 or part in ("[", "]", "\\") or part.startswith("***"):
            raise unsupported(f"matchGlob {glob!r}: {part!r} in this place")
        literal = part if part[0] == "[" else "|" if part == "," and depth else re.escape(part)
        patterns = [pattern + names.get(part, literal) for pattern, names in zip(patterns, (narrow, wide), strict=True)]
    try:
        strict, loose = (re.compile(pattern, re.DOTALL) for pattern in patterns)
    except re.error as error:
        raise unsupported(f"matchGlob {glob!r}: {error}") from None

    def matches(name: str) -> bool:
        found = bool(strict.fullmatch(name))
        if found != bool(loose.fullmatch(name)):
            raise unsupported(f"matchGlob {glob!r} on {name!r}: Google does not document whether it matches")
        return found

    return matches


# Batches


@routes.add("POST", "/batch/storage/v1", "batch")
async def _batch(request: web.Request) -> web.StreamResponse:
    head = f"Content-Type: {request.headers.get('Content-Type', '')}\r\n\r\n".encode()
    message = email.parser.BytesParser(policy=email.policy.HTTP).parsebytes(head + await request.read())
    parts = list(message.iter_parts()) if message.is_multipart() else []
    if not 1 <= len(parts) <= 1000:
        raise ApiError(400, "invalid", f"A batch holds 1 to 1000 calls as multipart/mixed, got {len(parts)}")
    lines = []
    for part in parts:
        try:
            answer = await _call_in_batch(request, part.get_payload(decode=True) or b"")
            status, text = (200, json.dumps(with_links(request, answer))) if answer else (204, "")
        except ApiError as error:
            status, text = error.code, json.dumps(error.body())
        name = str(part.get("Content-ID", "")).strip("<>")
        lines += ["--batch", "Content-Type: application/http", f"Content-ID: <response-{name}>", ""]
        lines += [f"HTTP/1.1 {status} -", "Content-Type: application/json", f"Content-Length: {len(text)}", "", text]
    body = "\r\n".join([*lines, "--batch--", ""])
    return web.Response(text=body, headers={"Content-Type": "multipart/mixed; boundary=batch"})


async def _call_in_batch(request: web.Request, raw: bytes) -> Resource | None:
    head, _, text = raw.replace(b"\r\n", b"\n").partition(b"\n\n")
    try:
        first, *headers = head.decode().split("\n")
        method, target, _ = first.split(" ")
        body = json.loads(text.strip() or b"{}")
    except ValueError as error:
        raise ApiError(400, "parseError", f"Malformed call in a batch: {error}") from error
    url = urlsplit(target)
    query = dict(parse_qsl(url.query, keep_blank_values=True))
    for verb, pattern, name, served, function in _operations:
        if verb == method and (match := pattern.fullmatch(url.path)):
            check_request(name, query, [header.partition(":")[0].strip() for header in headers], served)
            path = {key: unquote(value) for key, value in match.groupdict().items()}
            return await request.app[STORE].run(function, _Call(request.app[STORE], path, query, body))
    raise unsupported(f"{method} {url.path} in a batch")
