"""HTTP predictions: ``python -m scripts.serve`` serves the model in MODEL_NAME. See ``scripts/README.md``.

Cloud Run runs this file for the service, as it runs ``predict.py`` for the job; both score by the same function.
"""

import logging
import sys

import functions_framework
from werkzeug.wrappers import Request, Response

from mlsys.errors import MlsysError
from mlsys.serve.server import get_service, serve


@functions_framework.http
def predict(request: Request) -> Response:
    """Answer a request: predictions, the model's card, or how the service is."""
    return get_service().answer(request)


def main() -> None:
    """Serve until SIGTERM."""
    try:
        serve(__file__, "predict")
    except MlsysError as exc:
        logging.getLogger(__name__).error("%s", exc)
        sys.exit(exc.exit_code)


if __name__ == "__main__":
    main()
