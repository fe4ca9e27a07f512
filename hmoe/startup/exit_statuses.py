"""The exit statuses of the command; a signal that ended it adds 128 to its number."""

from __future__ import annotations

OK = 0
FAILED = 1
BAD_INPUT = 2
LOST = 3  # another process of the run
READER_GONE = 141  # as of a process that SIGPIPE ended
