"""How long a call to Cloud Storage is tried."""

from google.api_core.retry import Retry
from google.cloud.storage.retry import DEFAULT_RETRY

from mlsys.deadlines import deadline, one_try


def retry() -> Retry:
    """Return the retry of a call that may be repeated, as long as ``MLSYS_DEADLINE_S`` says."""
    return DEFAULT_RETRY.with_timeout(deadline())


def timeout() -> tuple[float, float]:
    """Return the seconds to connect, and between two signs of life."""
    return min(10.0, one_try()), one_try()
