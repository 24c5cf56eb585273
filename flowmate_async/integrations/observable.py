"""Observable: what an observer needs of a client, so that it need not import one."""

from contextlib import AbstractContextManager
from typing import Protocol

from flowmate_async.events import Listener
from flowmate_async.stats import Stats


class Observable(Protocol):
    """Whatever tells its events and counts them; :class:`~flowmate_async.FlowMate` does."""

    @property
    def base_url(self) -> str:
        """FlowMate's API."""
        ...

    def listening(self, *listeners: Listener | None) -> AbstractContextManager[None]:
        """Within, tell these of every event."""
        ...

    def stats(self) -> Stats:
        """Counters and latencies since the client was made."""
        ...
