"""The files of load jobs on their way in: multipart and resumable, streamed to disk whatever their size."""

import json
import re
import tempfile
import uuid
from dataclasses import dataclass
from pathlib import Path

from aiohttp import BodyPartReader, MultipartReader, web

from mlsys.local.errors import ApiError, not_found

_CHUNK = 1 << 20


@dataclass
class Upload:
    """A resumable upload: the job that it is for, what has arrived, and the job's answer once it is whole."""

    project: str
    body: dict
    path: Path
    answer: dict | ApiError | None = None

    @property
    def size(self) -> int:
        """Return how many bytes are on disk."""
        return self.path.stat().st_size


class Uploads:
    """The uploads under way. They end with the process, as clients then start over."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._sessions: dict[str, Upload] = {}

    def _new_file(self) -> Path:
        with tempfile.NamedTemporaryFile(dir=self._folder, prefix="upload-", delete=False) as file:
            return Path(file.name)

    async def multipart(self, request: web.Request) -> tuple[dict, Path]:
        """Read ``multipart/related``: the job as JSON, then its file."""
        reader, path = await request.multipart(), self._new_file()
        try:
            body = json.loads(await (await _next_part(reader)).read())
            if not isinstance(body, dict):
                raise ValueError("the job must be a JSON object")
            data = await _next_part(reader)
            with path.open("wb") as file:
                while chunk := await data.read_chunk(_CHUNK):
                    file.write(chunk)
        except BaseException:
            path.unlink()
            raise
        return body, path

    def start(self, project: str, body: dict) -> str:
        """Open a resumable upload; return its id."""
        upload_id = uuid.uuid4().hex
        self._sessions[upload_id] = Upload(project, body, self._new_file())
        return upload_id

    def get(self, upload_id: str) -> Upload:
        """Return an upload or raise 404."""
        if upload_id not in self._sessions:
            raise not_found(f"Upload {upload_id}")
        return self._sessions[upload_id]

    @staticmethod
    async def receive(upload: Upload, request: web.Request) -> bool:
        """Append a request's bytes where they belong; say whether the file is whole.

        A client that lost an answer sends bytes again that are here already, or asks with ``bytes */…`` what is.
        """
        header = request.headers.get("Content-Range", "bytes 0-/")
        found = re.fullmatch(r"bytes (?:(\d+)-\d*|\*)/(\d+|\*)?", header)
        if not found:
            raise ApiError(400, "invalid", f"Content-Range {header!r} is malformed")
        if found[1] is not None:
            await _append(upload, request, int(found[1]))
        total = found[2]
        if total is None:  # one request with everything
            return True
        return total != "*" and upload.size >= int(total)


async def _next_part(reader: MultipartReader) -> BodyPartReader:
    part = await reader.next()
    if not isinstance(part, BodyPartReader):
        raise ApiError(400, "invalid", "a multipart upload needs two parts: the job and its data")
    return part


async def _append(upload: Upload, request: web.Request, start: int) -> None:
    if start > upload.size:
        return  # a hole: the answer's Range tells the client where to go on
    skip = upload.size - start
    with upload.path.open("ab") as file:
        async for chunk in request.content.iter_chunked(_CHUNK):
            file.write(chunk[skip:])
            skip = max(0, skip - len(chunk))
