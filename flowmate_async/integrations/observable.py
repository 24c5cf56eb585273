"""Observable: what an observer needs from a client, so that it does not have to import one."""

from contextlib import AbstractContextManager
from typing import Protocol

from flowmate_async.events import Listener
from flowmate_async.stats import Stats


class Observable(Protocol):
    """Anything with events and counters; :class:`~flowmate_async.FlowMate` has both."""

    @property
    def base_url(self) -> str:
        """The base URL of FlowMate's API."""
        ...

    def listening(self, *listeners: Listener | None) -> AbstractContextManager[None]:
        """In the block, notify these listeners of every event."""
        ...

    def stats(self) -> Stats:
        """Return counters and latencies since the client was created."""
        ...
