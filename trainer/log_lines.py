"""Log handler that writes to stdout and ends the command quietly when its reader has gone."""

from __future__ import annotations

import logging
import sys

from engines.broken_pipe import discard_stdout


class StdoutHandler(logging.StreamHandler):  # type: ignore[type-arg]  # takes no argument at run time
    """Lines on stdout. A reader that has left ends no run: what is still told goes nowhere, and hours of work go on."""

    def __init__(self) -> None:
        super().__init__(sys.stdout)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 -- logging's own name
        """Logging's own way would be a traceback on stderr for each line."""
        # logging calls this from inside its own except, so the error is the current one.
        if isinstance(sys.exc_info()[1], BrokenPipeError):
            discard_stdout()
        else:
            super().handleError(record)
