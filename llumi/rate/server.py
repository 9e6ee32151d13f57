"""The rating page on its port, until it is told to stop."""

import os
import socket

import uvicorn

from llumi.config import RateConfig
from llumi.errors import RateError
from llumi.rate.app import make_app
from llumi.rate.database import Database
from llumi.safety import Resources


def public_url(config: RateConfig) -> str:
    """How raters reach the page."""
    return config.public_url or f"http://{config.host}:{config.port}"


def serve(database: Database, config: RateConfig, resources: Resources) -> None:
    """Serve until Ctrl-C or SIGTERM. Addresses are not logged: that of an invitation is somebody's key.

    Raises RateError where the port is taken.
    """
    app = make_app(database, config, resources)
    with _listening(config) as listener:
        settings = uvicorn.Config(app, log_level="warning", access_log=False, server_header=False, timeout_graceful_shutdown=10)
        uvicorn.Server(settings).run(sockets=[listener])


def _listening(config: RateConfig) -> socket.socket:
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    try:
        return socket.create_server((config.host, config.port), family=family)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else "no such address"
        raise RateError(
            f"rate.host {config.host}, rate.port {config.port}: cannot be listened on ({reason}); take another"
        ) from None
