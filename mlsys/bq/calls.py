"""One call to BigQuery: repeated while it may help, and never waited for without end.

Google's client repeats some failures, not a 504, and by default waits for a stalled connection for ever. The setting
``MLSYS_DEADLINE_S`` says when to give up, all tries together.
"""

from collections.abc import Callable

from google.api_core import exceptions
from google.api_core.retry import Retry
from google.auth.exceptions import TransportError
from google.cloud import bigquery
from requests.exceptions import ChunkedEncodingError, Timeout
from requests.exceptions import ConnectionError as RequestsConnectionError

from mlsys.bq.errors import reason
from mlsys.deadlines import deadline, one_try

_TRANSIENT_REASONS = frozenset(["backendError", "badGateway", "internalError", "rateLimitExceeded"])
# Google's client does not repeat after a 504, as nobody knows whether that call worked. With a fixed id it is safe to.
_TRANSIENT = (
    exceptions.BadGateway,
    exceptions.GatewayTimeout,
    exceptions.InternalServerError,
    exceptions.ServiceUnavailable,
    exceptions.TooManyRequests,
    ChunkedEncodingError,
    ConnectionError,
    RequestsConnectionError,
    Timeout,
    TransportError,
)


def is_transient(exc: BaseException) -> bool:
    """Say whether the same call may succeed in a moment."""
    return isinstance(exc, _TRANSIENT) or reason(exc) in _TRANSIENT_REASONS


def call_retry(predicate: Callable[[BaseException], bool] = is_transient) -> Retry:
    """Return what repeats a call until the deadline."""
    return Retry(predicate=predicate, initial=0.5, maximum=30, timeout=deadline())


def get_table(client: bigquery.Client, table_id: str) -> bigquery.Table:
    """Return the table as it is; Google's ``NotFound`` when there is none."""
    return client.get_table(table_id, retry=call_retry(), timeout=one_try())
