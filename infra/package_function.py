"""Pack the registry function for Terraform: build/model_registry.zip, the same bytes for the same source.

Standard library only, so that any machine with a checkout can run it: ``python3 package_function.py``.
"""

import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

INFRA = Path(__file__).resolve().parent
ROOT = INFRA.parent
ARCHIVE = INFRA / "build" / "model_registry.zip"

# The twin, the demo, plots, cards and notebooks: nothing that the function could import. The rest is small, and lazy
# about pandas.
_LEFT_OUT = {"__pycache__", "airflow", "card", "demo", "jupyter", "local", "serve", "vis"}
_LONG_AGO = (1980, 1, 1, 0, 0, 0)  # a zip's earliest: with today's, every build would look like a new function


def sources() -> Iterator[tuple[str, Path]]:
    """Yield each file of the archive: its name there, and where it is."""
    for file in ("main.py", "requirements.txt"):
        yield file, ROOT / "scripts" / "model_registry" / file
    for path in sorted((ROOT / "mlsys").rglob("*")):
        name = path.relative_to(ROOT)
        if path.is_file() and path.suffix in {".py", ".json", ".sql"} and not _LEFT_OUT.intersection(name.parts):
            yield name.as_posix(), path


def pack(archive: Path = ARCHIVE) -> Path:
    """Write the archive and return its path."""
    archive.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(archive, "w") as target:
        for name, path in sources():
            entry = zipfile.ZipInfo(name, _LONG_AGO)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o644 << 16
            target.writestr(entry, path.read_bytes())
    return archive


if __name__ == "__main__":
    sys.stdout.write(f"{pack()}\n")
