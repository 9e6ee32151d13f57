"""`llumi serve ...`: run the service, change what it serves while it runs, take that back, tell how it stands."""

import contextlib
import json
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

import typer
from rich.table import Table as Rows

from llumi.config import Config, load_config
from llumi.errors import ConfigError, ServeError
from llumi.job import ConfigOption, JsonOption, SetOption, job, say_who_gets_in, serve_until_stopped
from llumi.terminal import console, escape, figure, progress_shown, show_figures, show_wide

if TYPE_CHECKING:
    from llumi.serve.versions import Table

serve_app = typer.Typer(help="Serve GM and IM behind one router; change what serves while it runs.")


@serve_app.callback(invoke_without_command=True)
def serve(context: typer.Context, config: ConfigOption = None, overrides: SetOption = None) -> None:
    """Serve GM and IM behind one router until Ctrl-C. Example: llumi serve --set serve.port=9000

    Where there is no key yet, and only this machine can ask, the first one is made and shown this once.
    """
    if context.invoked_subcommand is not None:
        if config is not None or overrides:
            raise typer.BadParameter(f"give --config and --set after `{context.invoked_subcommand}`, not before it")
        return
    from llumi.serve.app import serve as run_service
    from llumi.serve.app import stop_serving
    from llumi.serve.running import announced

    with job(config, overrides) as here:
        url = run_service(here.config, here.progress, here.tell).url
        here.progress.finish()
        try:
            with announced(here.config):
                say_who_gets_in(here.config, url, make_first=True)
                serve_until_stopped(url)
        finally:
            stop_serving()


@serve_app.command("deploy")
def deploy(config: ConfigOption = None, overrides: SetOption = None, as_json: JsonOption = False) -> None:
    """Apply a changed config to the service that runs: models, canaries, replicas, limits. No request is lost.

    New versions come up beside the old ones and must have answered before they are asked; where one cannot, all stays
    as it is. Example: llumi serve deploy --set serve.gm.canary.model=gm-dpo2 --set serve.gm.canary.weight=0.1
    """
    from llumi.serve.rollout import deploy as run_deploy

    tree = load_config(config, overrides or ())
    with progress_shown(quiet=as_json) as progress, service_session(tree):
        table = run_deploy(tree, progress)
        progress.finish()
        _show("deployed", table, as_json)


@serve_app.command("rollback")
def rollback(config: ConfigOption = None, overrides: SetOption = None, as_json: JsonOption = False) -> None:
    """Go back to what served before the last deploy. Example: llumi serve rollback

    The config tells where the service is found; what it serves then is what it served before.
    """
    from llumi.serve.rollout import rollback as run_rollback

    with progress_shown(quiet=as_json) as progress, service_session(load_config(config, overrides or ())):
        table = run_rollback(progress)
        progress.finish()
        _show("rolled back to", table, as_json)


@serve_app.command("status")
def status(config: ConfigOption = None, overrides: SetOption = None, as_json: JsonOption = False) -> None:
    """What serves: each version, its share of the requests, its replicas. Example: llumi serve status --json"""
    from llumi.serve.running import Running

    with service_session(load_config(config, overrides or ())):
        running = Running.find()
        _show("serving", running.now.table, as_json)
        if not as_json:
            console.print(f"deploys that can be taken back: {len(running.applied) - 1}")


@contextlib.contextmanager
def service_session(config: Config) -> Iterator[None]:
    """Connect to the cluster of the service that runs; raises ServeError or ConfigError where there is none."""
    from llumi.ray_session import join_own, ray_session
    from llumi.serve.running import address_file

    if config.ray.address or os.environ.get("RAY_ADDRESS"):
        with ray_session(config.ray):
            yield
        return
    path = address_file(config)
    try:
        address = json.loads(path.read_text())["address"]
    except (OSError, ValueError, KeyError):
        raise ServeError(
            f"no service runs here ({path} does not stand); start one with llumi serve, or name its cluster in ray.address"
        ) from None
    with contextlib.ExitStack() as session:
        try:
            session.enter_context(join_own(address))
        except ConfigError:
            raise ServeError(f"the service of {path} does not run any more; start one with: llumi serve") from None
        yield


def _show(title: str, table: "Table", as_json: bool) -> None:
    from llumi.serve.rollout import states

    found = states(table)
    if as_json:
        show_figures("serving", {"versions": found}, as_json=True)
        return
    rows = Rows("version", "role", "model", "share", "replicas", "state", box=None)
    for name, state in found.items():
        rows.add_row(name, *(escape(figure(value)) for value in state.values()))
    console.print(f"[green]{title}[/]")
    show_wide(rows)
