"""The states of a call. Plain numbers, since they are compared several times per request."""

from typing import Final

READY: Final = 0
"""In the queue of calls that may be sent."""
IN_FLIGHT: Final = 1
"""Sent, and not yet answered."""
TIMED: Final = 2
"""Waits until a point in time."""
PARKED: Final = 3
"""Waits for its turn at a secret, or for a refresh slot."""
TOKENLESS: Final = 4
"""Waits for a token."""
ASKING: Final = 5
"""Waits for a side task: a look-up or a borrowed slot."""
DONE: Final = 6
