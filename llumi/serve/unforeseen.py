"""What may be said of an error that nobody foresaw: its kind and its place. Its message may hold text of a person."""

import traceback
from pathlib import PurePath

FRAMES = 4


def kind_and_place(error: BaseException) -> str:
    """Such as "ValueError at replica.py:44 < hf.py:81", callers first; of a group, that of its first error."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    frames = traceback.extract_tb(error.__traceback__)[-FRAMES:]
    places = " < ".join(f"{PurePath(frame.filename).name}:{frame.lineno}" for frame in frames)
    return f"{type(error).__name__} at {places or 'no place'}"
