"""The list of posts and authors whose text must not be used: people who asked to be left out, or whose text was deleted."""

from dataclasses import dataclass
from pathlib import Path

from llumi.errors import CorpusError


@dataclass(frozen=True)
class Exclusions:
    """Raw post ids without prefix and raw author names, both in small letters."""

    posts: frozenset[str] = frozenset()
    authors: frozenset[str] = frozenset()


def read_exclusions(path: Path | None) -> Exclusions:
    """Read `corpus.exclude`: one `post ID` or `author NAME` a line, `#` before a comment; none where there is no file.

    Raises CorpusError for a file that cannot be read or a line of another form; the line is named by its number alone.
    """
    if path is None:
        return Exclusions()
    try:
        lines = path.expanduser().read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        problem = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise CorpusError(f"corpus.exclude {path}: cannot be read ({problem}); give a text file") from None
    found: dict[str, set[str]] = {"post": set(), "author": set()}
    for number, line in enumerate(lines, start=1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        if len(words) != 2 or words[0] not in found:
            raise CorpusError(f"corpus.exclude {path}:{number}: expected `post ID` or `author NAME`")
        kind, name = words
        found[kind].add(name.lower().removeprefix("t3_" if kind == "post" else "u/"))
    return Exclusions(frozenset(found["post"]), frozenset(found["author"]))
