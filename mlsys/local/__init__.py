"""The offline twin: BigQuery and Cloud Storage on one laptop, for Google's own clients.

`attach` gives a process the addresses of its data folder's twin, starting it when it is not running.
"""

from mlsys.local.launcher import Addresses, attach

__all__ = ["Addresses", "attach"]
