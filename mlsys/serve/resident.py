"""The model that a process serves: loaded once, in the background, and tried again for as long as that fails.

A service must listen before its model is there: in a new environment nobody has saved one yet. So loading starts
beside the server, and a failure is a state with a reason, not the end.
"""

import logging
import threading
import time
from collections.abc import Callable

from mlsys.errors import MlsysError
from mlsys.models import Model, load_model
from mlsys.settings import Settings

logger = logging.getLogger(__name__)

RETRY_S = 5.0


class Resident:
    """Hold one version of one model; safe to use from several threads.

    The version is the one that ``latest`` or an alias stood for when it was loaded, and stays: another one takes
    another process.

    Parameters
    ----------
    load
        Returns the model, ready to predict.
    retry_s
        Seconds from a failure to the next try, which the next question starts.
    """

    def __init__(self, load: Callable[[], Model], *, retry_s: float = RETRY_S) -> None:
        self.reason = "the model is being loaded"
        self._load, self._retry_s = load, retry_s
        self._model: Model | None = None
        self._loader: threading.Thread | None = None
        self._lock, self._next_try = threading.Lock(), 0.0

    def model(self, wait_s: float = 0.0) -> Model | None:
        """Return the model; None when it is still not there after ``wait_s`` seconds of loading: see ``reason``."""
        if self._model is None and (loader := self._loading()) is not None:
            loader.join(wait_s)
        return self._model

    def _loading(self) -> threading.Thread | None:
        """Return the thread that loads the model now, starting it when it is time for a try."""
        with self._lock:
            if self._loader is not None and self._loader.is_alive():
                return self._loader
            if self._model is not None or time.monotonic() < self._next_try:
                return None
            self._loader = threading.Thread(target=self._try, name="loader", daemon=True)
            self._loader.start()
            return self._loader

    def _try(self) -> None:
        started = time.monotonic()
        try:
            self._model = self._load()
        except MlsysError as exc:
            self._fail(" ".join(str(exc).split()), exc_info=False)
        except (Exception, SystemExit) as exc:  # noqa: BLE001 - what Google's clients or a model's own code raise
            self._fail(f"loading the model failed ({type(exc).__name__}), the service's log has more", exc_info=True)
        else:
            logger.info("%s is ready after %.1f s", self._model.ref, time.monotonic() - started)

    def _fail(self, reason: str, *, exc_info: bool) -> None:
        self.reason, self._next_try = reason, time.monotonic() + self._retry_s
        logger.error("no model to serve, next try in %.0f s: %s", self._retry_s, reason, exc_info=exc_info)


def load_proven(model_name: str, model_version: str, settings: Settings) -> Model:
    """Load a version and replay its golden rows; raises as `mlsys.models.load_model` and ``check_golden_rows`` do."""
    model = load_model(model_name, model_version, settings=settings)
    model.check_golden_rows()
    return model
