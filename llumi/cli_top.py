"""`llumi top`: a running service at a glance."""

import os
import time
from pathlib import Path
from typing import Annotated

import typer

from llumi.errors import AccessError
from llumi.job import JsonOption
from llumi.terminal import console, show_figures, show_wide

KEY_VARIABLE = "LLUMI_KEY"


def top(
    url: Annotated[str, typer.Argument(help="Where the service is.")] = "http://127.0.0.1:8000",
    *,
    key_file: Annotated[
        Path | None, typer.Option(help=f"Holds the secret of a key of scope admin; default: {KEY_VARIABLE} of the environment.")
    ] = None,
    every: Annotated[float, typer.Option(metavar="SECONDS", min=0.2, help="How often the service is asked.")] = 2,
    window: Annotated[float, typer.Option(metavar="SECONDS", min=1, help="Over how long rates and times are taken.")] = 60,
    once: Annotated[bool, typer.Option("--once", help="One table of the next SECONDS of --every, and end.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Watch a running service: requests, times, tokens, decisions and replicas of each role and version, until Ctrl-C.

    Times are medians / 95th percentiles. With --json, or where the output is no terminal, one look of --every seconds.

    Example: LLUMI_KEY=$(cat admin.key) llumi top http://10.0.0.5:8000
    """
    from llumi.serve.sight import Between, Reader
    from llumi.watch import notes, roles_table, watch

    reader = Reader(url, _secret(key_file))
    if once or as_json or not console.is_terminal:
        before = reader.read()
        time.sleep(every)
        figures = {"url": reader.url, **Between(before, reader.read()).figures()}
        if as_json:
            show_figures("top", figures, as_json=True)
        else:
            show_wide(roles_table(figures))
            console.print(*notes(figures), sep="\n", soft_wrap=True)
        return
    watch(reader, console, every, window)


def _secret(key_file: Path | None) -> str:
    if key_file is None:
        secret = os.environ.get(KEY_VARIABLE, "").strip()
        if not secret:
            raise AccessError(
                f"no key: set {KEY_VARIABLE}, or give --key-file FILE; make one with: llumi keys create NAME --scope admin"
            )
        return secret
    try:
        return key_file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or "no text"
        raise AccessError(f"--key-file {key_file}: cannot be read ({reason})") from None
