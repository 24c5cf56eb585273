"""Which refreshes may begin: slots counted by OAuth client. Pure, with no queue and no clock.

A refresh whose client is unknown (``None``) may belong to any client, so it takes a slot of each of them.
That way the limit of each client holds, whichever clients the unknown ones turn out to be.
"""

from collections import Counter

Client = str | None
"""An OAuth client; ``None`` if unknown."""


class SlotLedger:
    """Counts refreshes in flight by OAuth client.

    One refresh of an unknown client may always begin: otherwise a hanging provider, with all its slots taken,
    would block secrets of other providers. That one refresh may exceed a client's limit. While refreshes of
    known clients wait, the unknown ones take at most half of the slots.

    Args:
        limit: maximum number of refreshes of one client at the same time; at least 1.
    """

    __slots__ = ("_inside", "_limit")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._inside: Counter[Client] = Counter()

    @property
    def inside(self) -> int:
        """How many refreshes are in flight."""
        return self._inside.total()

    @property
    def crowded(self) -> bool:
        """Whether one more refresh of an unknown client could exceed the limit of a client."""
        busiest = max((count for key, count in self._inside.items() if key is not None), default=0)
        return self._inside[None] + busiest >= self._limit

    def fits(self, client: Client, *, limit: int | None = None, known_wait: bool = False) -> bool:
        """Return whether one more refresh may begin.

        Args:
            client: its OAuth client.
            limit: a lower limit for this client, for example while its provider is failing.
            known_wait: whether refreshes of known clients wait.
        """
        if limit is not None and self._inside[client] >= limit:
            return False
        unknown = self._inside[None]
        if client is not None:
            return self._inside[client] + unknown < self._limit
        share = self._limit // 2 if known_wait else self._limit
        return unknown == 0 or (unknown < share and not self.crowded)

    def enter(self, client: Client) -> None:
        """Count a refresh that begins."""
        self._inside[client] += 1

    def leave(self, client: Client) -> None:
        """Count a refresh that has ended."""
        self._inside[client] -= 1
        if not self._inside[client]:
            del self._inside[client]
