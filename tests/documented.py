"""What a page of the documentation tells its reader to type, so that a test can type it."""

import re
from pathlib import Path

DOCS = Path(__file__).parents[1] / "docs"


def section(page: str, heading: str) -> str:
    """The text below a heading of the second level, up to the next one."""
    _, _, text = (DOCS / page).read_text(encoding="utf-8").partition(f"\n## {heading}\n")
    assert text, f"{page} has no section {heading}"
    return text.partition("\n## ")[0]


def commands(text: str) -> list[str]:
    """Each command of the shell blocks, its comment left out and its lines joined."""
    blocks = "\n".join(re.findall(r"^```bash\n(.*?)^```", text, re.MULTILINE | re.DOTALL))
    lines = (re.sub(r"\s+#.*", "", line).strip() for line in re.sub(r"\\\n\s*", "", blocks).splitlines())
    return [line for line in lines if line]


def programs(text: str) -> list[str]:
    """The Python blocks."""
    return re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
