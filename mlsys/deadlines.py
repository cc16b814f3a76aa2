"""How long mlsys waits for Google Cloud: the setting ``MLSYS_DEADLINE_S``, shared out over tries."""

from mlsys.settings import get_settings

_ONE_TRY = 120.0  # seconds; a read session over many partitions takes Google nearly this long


def deadline() -> float:
    """Return for how many seconds a call may fail, all its tries together, before it has failed."""
    return get_settings().mlsys_deadline_s


def one_try() -> float:
    """Return how many seconds one try of a call may take, or may be silent while bytes flow."""
    return min(_ONE_TRY, deadline() / 2)
