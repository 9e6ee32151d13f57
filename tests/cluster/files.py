"""The files of cluster/, as the tests of this folder read them."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "cluster"
BARE_METAL = CLUSTER / "bare-metal"
SYSTEMD = BARE_METAL / "systemd"


def env_file(path: Path) -> dict[str, str]:
    """The variables of an environment file, in the form that systemd and a shell read alike: NAME=value, no quotes."""
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]
    return dict(line.split("=", 1) for line in lines)


def unit(path: Path) -> dict[str, list[str]]:
    """The settings of a unit, by name in the order they stand; a line that ends in a backslash goes on in the next."""
    settings: dict[str, list[str]] = {}
    for line in path.read_text(encoding="utf-8").replace("\\\n", " ").splitlines():
        if "=" in line and not line.startswith("#"):
            name, value = line.split("=", 1)
            settings.setdefault(name, []).append(value)
    return settings
