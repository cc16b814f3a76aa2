"""``python -m mlsys.local FOLDER``: what `mlsys.local.attach` starts in the background."""

import logging
import os
import sys
from pathlib import Path

from mlsys.errors import TwinError
from mlsys.local.server import run

logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
try:
    run(Path(sys.argv[1]))
    code = 0
except TwinError as exc:
    print(exc, file=sys.stderr)  # noqa: T201
    code = 1
except Exception:
    logging.exception("the twin failed")
    code = 1
sys.stderr.flush()
os._exit(code)  # at once: the launcher quotes the log's last line, and DuckDB's module complains on its way out
