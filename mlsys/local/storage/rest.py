"""The Cloud Storage JSON API over an `ObjectStore`: buckets, metadata, listing and copies.

Every operation says which parameters it serves; any other is refused by name. Content goes through `media`.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

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
    routes,
    with_links,
)
from mlsys.local.storage.store import Conditions, Key, ObjectStore, Resource, merge_patch
from mlsys.local.uploads import read_json

__all__ = ["STORE", "routes"]

_BUCKETS = "/storage/v1/b"
_BUCKET = "/storage/v1/b/{bucket:[^/]+}"
_TARGET = "/b/{to_bucket:[^/]+}/o/{to_object:[^/]+}"
_BUCKET_WRITABLE = {"location", "storageClass", "labels", "versioning", "iamConfiguration"}
_BUCKET_OUTPUT_ONLY = {"kind", "id", "name", "projectNumber", "metageneration", "etag", "timeCreated", "updated"}


@dataclass(frozen=True)
class _Call:
    """One request for metadata."""

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


def _serve(method: str, path: str, name: str, *served: str) -> Callable[[_Operation], _Operation]:
    """Serve the decorated function as ``method path``, with the query's parameters that it understands."""

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


@_serve("GET", _BUCKET, "buckets.get")
def _get_bucket(call: _Call) -> Resource:
    return call.store.bucket(call.path["bucket"])


@_serve("PATCH", _BUCKET, "buckets.patch")
def _patch_bucket(call: _Call) -> Resource:
    name, patch = call.path["bucket"], _bucket_fields(call)
    if patch.get("location", location := call.store.bucket(name)["location"]) != location:
        raise ApiError(400, "invalid", f"The location of bucket {name} cannot change")
    return call.store.patch_bucket(name, patch)


@_serve("DELETE", _BUCKET, "buckets.delete")
def _delete_bucket(call: _Call) -> None:
    call.store.delete_bucket(call.path["bucket"])


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
    patch = object_fields(call.body, nulls=True)

    def patched(found: Resource) -> Resource:
        new = merge_patch(found, patch)
        if new.get("storageClass") != found["storageClass"]:
            raise unsupported("a storage class changed by patch; rewrite the object")
        return {key: value for key, value in new.items() if value != {}}

    return call.store.change(call.key, call.conditions, patched)


@_serve("DELETE", OBJECT, "objects.delete", *PRECONDITIONS, "generation")
def _delete_object(call: _Call) -> None:
    call.store.delete(call.key, call.conditions)


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
