"""`llumi keys ...` and `llumi audit ...`: who may ask the service, and what was asked."""

import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from llumi.config import load_config
from llumi.job import ConfigOption, JsonOption, SetOption
from llumi.serve.keys import Key, KeyStore
from llumi.storage import Storage
from llumi.terminal import console, escape, figure, show_figures, show_wide

keys_app = typer.Typer(
    help="Keys of the service: made, listed, renewed, closed; routers follow within seconds.", no_args_is_help=True
)
audit_app = typer.Typer(help="The audit log of the service.", no_args_is_help=True)

NameArgument = Annotated[str, typer.Argument(help="What the key is called, such as clinic-web.")]


@keys_app.command("create")
def keys_create(
    name: NameArgument,
    scope: Annotated[list[str], typer.Option(help="gm, im, rate or admin; may be given several times.")],
    *,
    requests_per_minute: Annotated[int | None, typer.Option(min=1, help="Requests in any minute; default: no limit.")] = None,
    tokens_per_minute: Annotated[
        int | None, typer.Option(min=1, help="Tokens of prompts and answers in any minute; default: no limit.")
    ] = None,
    expires: Annotated[
        float | None, typer.Option(metavar="DAYS", min=0, help="Opens for so many days; default: for good.")
    ] = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a key. Its secret is shown this once, and kept nowhere.

    Example: llumi keys create clinic-web --scope gm --scope im --requests-per-minute 60 --expires 90
    """
    key, secret = _store(config, overrides).create(
        name, scope, days=expires, requests_per_minute=requests_per_minute, tokens_per_minute=tokens_per_minute
    )
    _show_secret(key, secret, as_json)


@keys_app.command("list")
def keys_list(config: ConfigOption = None, overrides: SetOption = None, as_json: JsonOption = False) -> None:
    """Every key that was made, and whether it still opens. Example: llumi keys list --json"""
    keys = [_shown(key) for key in _store(config, overrides).all()]
    if as_json:
        show_figures("keys", {"keys": keys}, as_json=True)
        return
    if not keys:
        console.print("no key yet; make one with: llumi keys create NAME --scope gm --scope im")
        return
    table = Table(*(column.replace("_", " ") for column in keys[0]), box=None)
    for row in keys:
        table.add_row(*("" if value is None else escape(figure(value)) for value in row.values()))
    show_wide(table)


@keys_app.command("rotate")
def keys_rotate(
    name: NameArgument,
    *,
    grace: Annotated[float, typer.Option(metavar="HOURS", min=0, help="For how long the old secret goes on to open.")] = 0,
    config: ConfigOption = None,
    overrides: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Give a key a new secret; the old one ends at once, or after the grace.

    Example: llumi keys rotate clinic-web --grace 24
    """
    key, secret = _store(config, overrides).rotate(name, grace)
    _show_secret(key, secret, as_json)


@keys_app.command("revoke")
def keys_revoke(name: NameArgument, config: ConfigOption = None, overrides: SetOption = None) -> None:
    """Close a key for good. Example: llumi keys revoke clinic-web"""
    for key in _store(config, overrides).revoke(name):
        console.print(f"[green]revoked[/] {key.name} ({key.id}); routers that run turn it away within seconds")


@audit_app.command("verify")
def audit_verify(
    path: Annotated[
        Path | None, typer.Argument(metavar="[FILE]", help="A file or a folder; default: the log of serve.audit.")
    ] = None,
    *,
    head: Annotated[str | None, typer.Option(metavar="HASH", help="A hash noted earlier, which must be in the chain.")] = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say in one line whether the chain holds; exit code 2 and the first line where it breaks, where it does not.

    Example: llumi audit verify --head 3f1c...
    """
    from llumi.serve.audit import audit_folder
    from llumi.serve.audit_check import verify

    tree = load_config(config, overrides or ())
    verdict = verify(path or audit_folder(tree.serve, Storage.open(tree.storage)), head)
    if as_json:
        figures = {"lines": verdict.lines, "first": verdict.first, "head": verdict.head.hash, "torn": verdict.torn}
        show_figures("audit", figures | {"refused": verdict.refused}, as_json=True)
        return
    torn = f", {verdict.torn} torn by a crash" if verdict.torn else ""
    refused = f", in which {verdict.refused} refused requests are only counted" if verdict.refused else ""
    lines = f"{verdict.lines} lines from number {verdict.first}"
    console.print(
        f"[green]the chain holds[/]: {lines}{torn}{refused}; head {verdict.head.hash}",
        soft_wrap=True,
    )


def _store(config: Path | None, overrides: list[str] | None) -> KeyStore:
    return KeyStore(Storage.open(load_config(config, overrides or ()).storage))


def _shown(key: Key) -> dict[str, Any]:
    """A key without its hashes, times as a person reads them."""
    now = time.time()
    replaced = key.replaced.until if key.replaced is not None and key.replaced.until > now else None
    return {
        "name": key.name,
        "id": key.id,
        "state": key.state(now),
        "scopes": " ".join(key.scopes),
        "created": _date(key.created_at),
        "expires": _date(key.expires_at),
        "old_secret_until": _date(replaced),
        "requests_per_minute": key.requests_per_minute,
        "tokens_per_minute": key.tokens_per_minute,
    }


def _date(seconds: float | None) -> str | None:
    return None if seconds is None else time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))


def _show_secret(key: Key, secret: str, as_json: bool) -> None:
    if as_json:
        show_figures("key", _shown(key) | {"secret": secret}, as_json=True)
        return
    console.print(f"[green]made[/] {key.name} ({key.id}: {', '.join(key.scopes)}); its secret is shown this once:")
    console.print(secret, soft_wrap=True, markup=False)
