"""What happens inside, told to whoever listens: statistics, logs, progress bars, metrics.

The core emits frozen structs and imports no observer. A listener is a plain callable; it runs inline, so it
must be quick, and must not raise. No event holds a credential.
"""

import logging
from collections.abc import Callable

import msgspec

__all__ = [
    "Answered",
    "BreakerClosed",
    "BreakerOpened",
    "Broken",
    "ConcurrencyChanged",
    "CoordinationDiffers",
    "CoordinationLost",
    "CoordinationRestored",
    "CredentialBroken",
    "CredentialRecovered",
    "Event",
    "FlightJoined",
    "Listener",
    "ProviderRefused",
    "RateChanged",
    "Refreshed",
    "Relisted",
    "Retried",
    "RetryRefused",
    "RunBegan",
    "RunEnded",
    "ServedStale",
    "Throttled",
    "TokenMade",
    "UserNotStored",
    "UserSkipped",
    "UserStored",
]

_log = logging.getLogger("flowmate_async")


class Event(msgspec.Struct, frozen=True, gc=False):
    """Base of all events, and what their fields mean where they have them.

    Attributes:
        endpoint: the endpoint asked, as ``GET /secrets/{id}``.
        status: the HTTP status of the answer.
        seconds: how long it took, or for how long nothing is sent.
        username: the user concerned.
        secret_id: the secret concerned.
        error: the kind of an error, as ``refresh_failed``.
        message: the error's text.
        auth_client_id: the OAuth client concerned.
        flight: what was asked for: ``impersonation`` or ``secret``.
        run_id: the run in the store.
        secrets: credentials stored, or found unchanged, of the user.
        requests: how many requests the user took.
    """


class Answered(Event, frozen=True):
    """A request was answered; ``seconds`` is the exchange itself, without waiting for the limiter."""

    endpoint: str
    status: int
    seconds: float
    username: str | None = None
    secret_id: str | None = None


class Broken(Event, frozen=True):
    """A request got no complete answer; ``failure`` is the kind of failure, as ``interrupted``."""

    endpoint: str
    failure: str
    seconds: float = 0.0
    username: str | None = None
    secret_id: str | None = None


class Retried(Event, frozen=True):
    """A request failed and will be sent again after ``wait_seconds``."""

    endpoint: str
    error: str
    wait_seconds: float


class RetryRefused(Event, frozen=True):
    """A request failed and is not sent again, because too much of the traffic is retries already."""

    endpoint: str
    error: str


class Throttled(Event, frozen=True):
    """Upstream answered 429, or asked to wait; nobody sends for ``wait_seconds``."""

    wait_seconds: float


class RateChanged(Event, frozen=True):
    """The rate was lowered after a 429, or recovers; ``rate`` is in requests/s."""

    rate: float


class ConcurrencyChanged(Event, frozen=True):
    """At most ``limit`` requests are in flight from now on, by how their latency fares."""

    limit: int


class ProviderRefused(Event, frozen=True):
    """A refresh was not sent: many of the same OAuth client have just failed.

    Attributes:
        auth_client_id: the client; empty for secrets whose client is unknown.
    """

    auth_client_id: str


class FlightJoined(Event, frozen=True):
    """A caller joined a request for the same thing that was under way already."""

    flight: str


class TokenMade(Event, frozen=True):
    """A user was impersonated; ``replaced`` when an earlier token had been rejected."""

    username: str
    replaced: bool


class Refreshed(Event, frozen=True):
    """The credential cache holds a new value."""

    username: str
    secret_id: str


class ServedStale(Event, frozen=True):
    """A refresh failed, and a value that is still valid was served; ``error`` is the failure's kind."""

    username: str
    secret_id: str
    error: str


class BreakerOpened(Event, frozen=True):
    """Many users met a sick upstream; nothing is sent for ``seconds``."""

    seconds: float


class BreakerClosed(Event, frozen=True):
    """Upstream answered well again; everybody is sent there as before."""


class Relisted(Event, frozen=True):
    """A listing disagreed with its own total and is fetched again."""

    username: str


class CoordinationLost(Event, frozen=True):
    """What coordinates processes cannot be used, for ``reason``; each goes on without it, as it was told."""

    reason: str


class CoordinationRestored(Event, frozen=True):
    """What coordinates processes can be used again, after ``seconds``."""

    seconds: float


class CoordinationDiffers(Event, frozen=True):
    """Processes that share were told different things: these ``settings``; none once they agree again."""

    settings: tuple[str, ...]


class RunBegan(Event, frozen=True):
    """A sync began or resumed a run over ``total`` users; ``None`` when their number is not known."""

    run_id: str
    resumed: bool
    total: int | None


class UserSkipped(Event, frozen=True):
    """A user was synced by an earlier part of the run, and is not fetched again."""

    username: str


class UserStored(Event, frozen=True):
    """A user's credentials and checkpoint are durable in the store."""

    username: str
    secrets: int
    seconds: float
    requests: int = 0


class UserNotStored(Event, frozen=True):
    """A user failed; the failure is checkpointed."""

    username: str
    error: str
    message: str
    requests: int = 0


class CredentialBroken(Event, frozen=True):
    """A credential does not work any more: its user has to reconnect.

    Attributes:
        reason: why, as ``refused``; see :class:`flowmate_async.health.Reason`.
        since: the first failure in a row, in seconds since the Unix epoch.
    """

    username: str
    secret_id: str
    reason: str
    since: float


class CredentialRecovered(Event, frozen=True):
    """A credential works again, after somebody was told that it does not."""

    username: str
    secret_id: str


class RunEnded(Event, frozen=True):
    """A sync ended; ``complete`` when every user was tried."""

    run_id: str
    complete: bool


Listener = Callable[[Event], object]
"""Called with every event, on the event loop and where it happens; must be quick and must not raise."""


CountAnswer = Callable[[str, int, float], object]
"""Counts an answer by endpoint, status and seconds."""


class Emitter:
    """Hands each event to every listener.

    Args:
        listeners: are told, in this order, after the counters.
        counters: counts events. As long as nothing else listens, answers are counted without an event.
        count_answer: the counters' short way for answers.

    Attributes:
        is_observed: whether anything but the counters listens.
        count_answer: see above.
    """

    __slots__ = ("_counters", "_listeners", "count_answer", "is_observed")

    def __init__(
        self,
        *listeners: Listener,
        counters: Listener | None = None,
        count_answer: CountAnswer = lambda _endpoint, _status, _seconds: None,
    ) -> None:
        self._listeners = list(listeners)
        self._counters = counters
        self.count_answer: CountAnswer = count_answer
        self.is_observed: bool = bool(listeners)

    def add(self, listener: Listener) -> None:
        """Tell this listener from now on."""
        self._listeners.append(listener)
        self.is_observed = True

    def remove(self, listener: Listener) -> None:
        """Stop telling this listener."""
        self._listeners.remove(listener)
        self.is_observed = bool(self._listeners)

    def answered(
        self, endpoint: str, status: int, seconds: float, username: str | None, secret_id: str | None
    ) -> None:
        """Report an answer: an :class:`Answered` for the listeners, if there are any.

        Args:
            endpoint: the endpoint that was asked.
            status: the HTTP status.
            seconds: how long the exchange took.
            username: the user concerned.
            secret_id: the secret concerned.
        """
        if self.is_observed:
            self.emit(Answered(endpoint, status, seconds, username, secret_id))
        else:
            self.count_answer(endpoint, status, seconds)

    def emit(self, event: Event) -> None:
        """Tell every listener of an event. A listener that raises is logged and skipped."""
        if self._counters is not None:
            self._counters(event)
        for listener in self._listeners:
            try:
                listener(event)
            except Exception:  # noqa: BLE001 - an observer must never break what it observes
                _log.warning("a listener failed on %s", type(event).__name__, exc_info=True)
