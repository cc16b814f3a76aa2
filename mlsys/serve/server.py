"""The service as a process: its variables, its log, and gunicorn, as functions-framework starts it."""

import logging
import os
from functools import cache, partial
from typing import Annotated, Any

from gunicorn.glogging import Logger
from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from mlsys import logs
from mlsys.errors import SettingsError
from mlsys.names import LATEST, as_version, check_model_name
from mlsys.serve.resident import Resident, load_proven
from mlsys.serve.service import Service, refuse
from mlsys.settings import get_settings

logger = logging.getLogger(__name__)

_Route = Annotated[str, Field(pattern=r"^(/.*)?$")]


class Variables(BaseSettings):
    """What the platform and the deployment say. Each field is the environment variable of the same name in capitals."""

    model_config = SettingsConfigDict(frozen=True, env_ignore_empty=True, protected_namespaces=())

    model_name: str = ""
    model_version: str = LATEST
    serve_host: str = "127.0.0.1"  # the image says all interfaces, as Cloud Run asks
    port: Annotated[int, Field(ge=1, le=65535)] = 8080
    aip_http_port: Annotated[int, Field(ge=1, le=65535)] | None = None
    aip_predict_route: _Route = ""
    aip_health_route: _Route = ""


def read_variables() -> Variables:
    """Read them; raise `SettingsError` or `ModelRefError` when one cannot be used."""
    try:
        variables = Variables()
    except ValidationError as exc:
        error = exc.errors()[0]
        raise SettingsError(f"{str(error['loc'][0]).upper()}: {error['msg']}, got {error['input']!r}") from None
    if not variables.model_name:
        raise SettingsError("MODEL_NAME is not set: name the model to serve, like MODEL_NAME=titanic-survival")
    check_model_name(variables.model_name)
    as_version(variables.model_version)
    return variables


@cache
def get_service() -> Service:
    """Return the service of this process, as the environment variables ask for it."""
    variables, settings = read_variables(), get_settings()
    return Service(
        Resident(partial(load_proven, variables.model_name, variables.model_version, settings)),
        project=settings.gcp_project_id,
        predict_route=variables.aip_predict_route,
        health_route=variables.aip_health_route,
    )


def serve(source: str, target: str) -> None:
    """Serve the functions-framework target in the file ``source`` until SIGTERM; SIGHUP loads the model anew.

    Raises
    ------
    mlsys.errors.MlsysError
        A variable cannot be used. What is wrong with the model itself does not end the service: it says so.
    """
    from functions_framework import create_app
    from functions_framework._http import create_server
    from werkzeug.exceptions import HTTPException

    logs.configure("json" if "K_SERVICE" in os.environ else "text", logging.INFO)
    variables = read_variables()
    get_settings()  # what cannot be used ends the process here, in one line
    logs.bind(model_name=variables.model_name)
    app = create_app(target, source, "http")
    app.register_error_handler(HTTPException, refuse)  # of what never reaches the target: /favicon.ico
    logger.info("serving %s %s", variables.model_name, variables.model_version)
    create_server(app, debug=False, **_OPTIONS).run(variables.serve_host, variables.aip_http_port or variables.port)


class _Log(Logger):
    """Gunicorn's own lines go where all others go."""

    def setup(self, cfg: Any) -> None:
        super().setup(cfg)
        self.error_log.handlers.clear()
        self.error_log.propagate = True


def _load(_worker: Any) -> None:
    get_service().resident.model()  # in the worker: threads and Google's clients do not survive a fork


_OPTIONS = {
    "control_socket_disable": True,  # nobody would use it, and it is a file in a home that the image's user has not
    "graceful_timeout": 8,  # Cloud Run gives ten seconds
    "keepalive": 75,
    "limit_request_line": 8190,  # functions-framework takes the limit away
    "logger_class": _Log,
    "loglevel": "info",
    "post_worker_init": _load,
}
