"""Bodies of uploads as both services take them: multipart, and the chunks of a resumable upload."""

import contextlib
import json
import re
from collections.abc import AsyncIterator, Iterator
from typing import Any

from aiohttp import BodyPartReader, MultipartReader, web

from mlsys.local.errors import ApiError, unsupported

_BATCH = 1 << 20


async def read_json(request: web.Request) -> dict:
    """Return the JSON object in the body of a request; an empty body is an empty object."""
    return json_object(await request.read())


def json_object(raw: bytes, **options: Any) -> dict:
    """Return the JSON object that ``raw`` holds; ``options`` are those of `json.loads`."""
    try:
        body = json.loads(raw or b"{}", **options)
    except ValueError as exc:
        raise ApiError(400, "parseError", f"Parse Error: {exc}") from exc
    if not isinstance(body, dict):
        raise ApiError(400, "parseError", "Parse Error: the body must be a JSON object")
    return body


async def multipart(request: web.Request) -> tuple[dict, str | None, AsyncIterator[bytes]]:
    """Return the resource in a ``multipart/related`` body, the type of its content, and the content piece by piece."""
    with _well_formed():
        reader = await request.multipart()
        first = await reader.next()
        body = json.loads(await first.read()) if isinstance(first, BodyPartReader) else None
        data = await reader.next()
        if not isinstance(body, dict) or data is None:
            raise ValueError("its parts must be a JSON resource and the content")
    if not isinstance(data, BodyPartReader) or data.headers.get("Content-Transfer-Encoding", "binary") != "binary":
        raise unsupported("a multipart upload whose content is itself multipart, or encoded for transfer")
    return body, data.headers.get("Content-Type"), _content(reader, data)


async def _content(reader: MultipartReader, part: BodyPartReader) -> AsyncIterator[bytes]:
    """Yield the bytes of the last part of a multipart body."""
    with _well_formed():
        while piece := await part.read_chunk(_BATCH):
            yield piece
        if await reader.next() is not None:
            raise ValueError("it has more than two parts")


@contextlib.contextmanager
def _well_formed() -> Iterator[None]:
    try:
        yield
    except (ValueError, AssertionError, LookupError) as error:
        raise ApiError(400, "invalid", f"Malformed multipart body: {error}") from error


def content_range(request: web.Request, size: int | None = None) -> tuple[int | None, int, int | None]:
    """Return where a chunk starts, where it ends, and how long the whole is (None: not known yet).

    A chunk that starts nowhere only asks what has arrived. Without the header, the chunk is all there is.

    Parameters
    ----------
    size
        The length of the whole as promised before.
    """
    length = request.content_length
    text = request.headers.get("Content-Range", f"bytes 0-*/{length or size or 0}")
    match = re.fullmatch(r"bytes (?:([0-9]+)-([0-9]+|\*)|\*)/([0-9]+|\*)", text)
    if not match:
        raise ApiError(400, "invalid", f"Invalid Content-Range: {text!r}")
    total = None if match[3] == "*" else int(match[3])
    if match[1] is None:
        return None, 0, total
    first = int(match[1])
    if match[2] == "*":
        if length is None:
            raise unsupported("a chunk of which neither Content-Range nor Content-Length says how long it is")
        return first, first + length, total
    end = int(match[2]) + 1
    if length not in (None, end - first):
        raise ApiError(400, "invalid", f"Content-Length {length} does not fit {text!r}")
    return first, end, total


async def window(pieces: AsyncIterator[bytes], skip: int, stop: int) -> AsyncIterator[bytes]:
    """Yield the bytes from ``skip`` up to ``stop``: a client may send again what is here already."""
    at = 0
    async for piece in pieces:
        yield piece[max(0, skip - at) : max(0, stop - at)]
        at += len(piece)


def incomplete(request: web.Request, size: int) -> web.Response:
    """Answer that ``size`` bytes have arrived and more are due."""
    headers = {"Range": f"bytes=0-{size - 1}"} if size else {}
    if request.headers.get("X-GUploader-No-308") == "yes":  # what Go's client asks for
        return web.Response(headers=headers | {"X-HTTP-Status-Code-Override": "308"})
    return web.Response(status=308, reason="Resume Incomplete", headers=headers)
