"""How long a test waits for what should come."""

from __future__ import annotations

# Seconds until a test gives a command up that hangs. None is within reach of a command at work, even
# on a slow machine with another test beside it: a limit that such a command reaches tells nothing.
HANG = 400.0
