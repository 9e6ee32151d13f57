"""The cluster that a command works on: the one it is told of, or a small one of its own on loopback."""

import contextlib
import logging
import os
import socket
import sys
import warnings
from collections.abc import Iterator, Mapping

import ray
import ray.data
from ray._private.authentication.authentication_token_setup import maybe_enable_token_auth_if_token_available

from llumi.config import RayConfig
from llumi.environment import head_environment, worker_environment
from llumi.errors import ConfigError

LOCAL_MIN_CPUS = 4
"""Logical CPUs of a local cluster at least: two served models, their router and the jobs beside them must fit on two cores."""

LOOK_SECONDS = 2

LOCAL_OBJECT_STORE_BYTES = 2**30

LOOPBACK = "127.0.0.2" if sys.platform == "linux" else None
"""The address of a local cluster: on Linux Ray would replace 127.0.0.1 by one that the network reaches."""

_GLOO_ON_LOOPBACK = {"GLOO_SOCKET_IFNAME": "lo"} if LOOPBACK else {}

_ON_ONE_MACHINE = {
    # Nobody takes the only node away with notice; the watcher would be one more process beside each training run.
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    # Figures for a dashboard that is not there.
    "REPORTER_UPDATE_INTERVAL_MS": "60000",
}
"""What a local cluster does without; read by the driver, and inherited by the head."""

_ONE_THREAD = {"POLARS_MAX_THREADS": "1"}
"""As many tasks run as there are cores: with threads of its own in each, they would mostly wait for one another."""

_CHATTY = ("ray.data", "ray.serve", "ray._private.authentication.authentication_token_setup")
"""Loggers whose plans, addresses and advice are for those who debug Ray; LLUMI shows its own progress."""


@contextlib.contextmanager
def ray_session(config: RayConfig) -> Iterator[None]:
    """Connect to the cluster of `config` (or of RAY_ADDRESS, as under `ray job submit`), else start a local one.

    A local cluster listens on loopback only and ends with the session. Raises ConfigError where no cluster answers.
    """
    _be_quiet()
    # Ray counts the files that a pass is given; each of them gives any number of chunks.
    warnings.filterwarnings("ignore", "The maximum number of concurrent tasks", UserWarning)
    address = config.address or os.environ.get("RAY_ADDRESS")
    with _environment({} if address else _ON_ONE_MACHINE):
        if address:
            _join(address)
        else:
            _start_local(config)
        ray.data.DataContext.get_current().enable_progress_bars = False
        try:
            yield
        finally:
            ray.shutdown()


@contextlib.contextmanager
def join_own(address: str) -> Iterator[None]:
    """Connect to a local cluster that another process of LLUMI on this machine started.

    What is deployed from here must run as it would from there, so its environment is the head's. Raises ConfigError
    where the cluster has ended.
    """
    _be_quiet()
    gone = ConfigError(f"ray.address: no Ray cluster answers at {address}; start one, or leave it out")
    host, _, port = address.rpartition(":")
    try:  # Ray itself would look for a cluster that has ended for 20 s, and say so each second
        socket.create_connection((host, int(port)), timeout=LOOK_SECONDS).close()
    except OSError:
        raise gone from None
    # A cluster that Ray starts by itself asks for this user's token; where it is named, Ray would not send it.
    maybe_enable_token_auth_if_token_available(warn_if_disabled=False)
    with _environment(_ON_ONE_MACHINE):
        try:
            ray.init(address=address, configure_logging=False, log_to_driver=False, _node_ip_address=LOOPBACK)
        except ConnectionError:
            raise gone from None
        try:
            yield
        finally:
            ray.shutdown()


def _be_quiet() -> None:
    for name in _CHATTY:
        logging.getLogger(name).setLevel(logging.ERROR)


def _join(address: str) -> None:
    try:
        ray.init(address=address, runtime_env={"env_vars": worker_environment() | _ONE_THREAD}, configure_logging=False)
    except ConnectionError:
        raise ConfigError(f"ray.address: no Ray cluster answers at {address}; start one, or leave it out") from None


def _start_local(config: RayConfig) -> None:
    # Inherited, and not by way of a runtime environment: for that Ray would start a process to start each worker.
    with _environment(head_environment() | _ONE_THREAD | _GLOO_ON_LOOPBACK):
        ray.init(
            address="local",
            num_cpus=config.num_cpus or max(LOCAL_MIN_CPUS, os.cpu_count() or 1),
            object_store_memory=LOCAL_OBJECT_STORE_BYTES,
            include_dashboard=False,
            configure_logging=False,
            log_to_driver=False,
            _node_ip_address=LOOPBACK,
        )


@contextlib.contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Set `variables` for the processes that are started within."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
