"""The lines of requests that no key opened: of a flood of them the first ones, then a count."""

import asyncio
from collections.abc import Mapping
from typing import Any

from llumi.serve.audit import AuditLog, utc_now

LINES_A_MINUTE = 20
MINUTE_SECONDS = 60.0


class Refusals:
    """Writes to `audit` for requests without a key that opens, of which anybody who reaches the service can send any number.

    The first LINES_A_MINUTE have a line each. What comes in the same minute beyond them is counted, and stands in one line at
    its end: `refused` says how many, `since` when the first of them came.
    """

    def __init__(self, audit: AuditLog, seconds: float = MINUTE_SECONDS) -> None:
        self._audit = audit
        self._seconds = seconds
        self._num_written = self._num_counted = 0
        self._since = ""
        self._end: asyncio.TimerHandle | None = None

    def write(self, fields: Mapping[str, Any]) -> None:
        """Write the line of one refused request, or count it; called from the event loop."""
        if self._end is None:
            self._end = asyncio.get_running_loop().call_later(self._seconds, self.settle)
        if self._num_written < LINES_A_MINUTE:
            self._num_written += 1
            self._audit.write(fields)
            return
        self._num_counted += 1
        self._since = self._since or fields["time"]

    def settle(self) -> None:
        """The minute is over, or the service ends: write what was counted; where the disk refuses, it is counted on."""
        if self._end is not None:
            self._end.cancel()
            self._end = None
        self._num_written = 0
        if self._num_counted:
            self._audit.write({"time": utc_now(), "refused": self._num_counted, "since": self._since})
            if self._audit.writable:
                self._num_counted, self._since = 0, ""
