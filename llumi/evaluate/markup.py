"""Pieces of the report's HTML."""

from collections.abc import Sequence
from html import escape


def table(kind: str, caption: str, heads: Sequence[str], bodies: str) -> str:
    """A table in a frame that scrolls sideways, by keyboard too, where the screen is narrower."""
    head = "".join(f"<th scope='col'>{label}</th>" for label in heads)
    return (
        f"<div class='scroll' tabindex='0' role='region' aria-label='{escape(caption)}'><table class='{kind}'>"
        f"<caption>{caption}</caption><thead><tr>{head}</tr></thead>{bodies}</table></div>"
    )


def swatch(colour: str) -> str:
    """A dot in the colour of an arm."""
    return f"<i class='swatch' style='background: var(--{colour})'></i>"


def spoken(arm: str) -> str:
    """The arm as a reader says it: "human reply"; the name of a generation stays what it is."""
    return arm.replace("-", " ") if arm.startswith("human-") else arm


def number(value: float | None, digits: int, signed: bool = False) -> str:
    """With a real minus sign and commas; a dash where there is none."""
    if value is None:
        return "–"
    return f"{value:{'+' if signed else '-'}z,.{digits}f}".replace("-", "−")


def p_value(value: float | None) -> str:
    """To three digits."""
    if value is None:
        return "–"
    return "< 0.001" if value < 0.001 else f"{value:.3f}"
