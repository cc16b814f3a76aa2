"""The files of load jobs on their way in, streamed to disk whatever their size."""

import tempfile
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from mlsys.local.errors import ApiError, not_found


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

    async def append(self, pieces: AsyncIterator[bytes]) -> None:
        """Write ``pieces`` to the end."""
        with self.path.open("ab") as file:
            async for piece in pieces:
                file.write(piece)


class Uploads:
    """The uploads under way. They end with the process, as clients then start over."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._sessions: dict[str, Upload] = {}

    def new(self, project: str, body: dict) -> Upload:
        """Return an upload of which nothing is here yet."""
        with tempfile.NamedTemporaryFile(dir=self._folder, prefix="upload-", delete=False) as file:
            return Upload(project, body, Path(file.name))

    def start(self, project: str, body: dict) -> str:
        """Open a resumable upload; return its id."""
        upload_id = uuid.uuid4().hex
        self._sessions[upload_id] = self.new(project, body)
        return upload_id

    def get(self, upload_id: str) -> Upload:
        """Return an upload or raise 404."""
        if upload_id not in self._sessions:
            raise not_found(f"Upload {upload_id}")
        return self._sessions[upload_id]
