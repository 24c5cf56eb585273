"""Events of the library for its listeners: statistics, logs, progress bars, metrics.

The core emits frozen structs and imports no observer. A listener is a plain callable. It runs inline, so it
must be quick and must not raise. No event contains a credential.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

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
    """Base of all events, with the meaning of their common fields.

    Attributes:
        endpoint: the endpoint, such as ``GET /secrets/{id}``.
        status: the HTTP status of the answer.
        seconds: how long it took, or for how long nothing is sent.
        username: the user concerned.
        secret_id: the secret concerned.
        error: the kind of an error, such as ``refresh_failed``.
        message: the error's text.
        auth_client_id: the OAuth client concerned.
        flight: what the flight fetches: ``impersonation`` or ``secret``.
        run_id: the run in the store.
        secrets: credentials of the user that were stored or found unchanged.
        requests: how many requests the user took.
        attempt: 1 for a request that was sent for the first time, 2 for its first repetition, and so on.
    """


class Answered(Event, frozen=True):
    """A request was answered; ``seconds`` is the exchange itself, without the wait for the limiter."""

    endpoint: str
    status: int
    seconds: float
    username: str | None = None
    secret_id: str | None = None
    attempt: int = 1


class Broken(Event, frozen=True):
    """A request got no complete answer; ``failure`` is the kind of failure, such as ``interrupted``."""

    endpoint: str
    failure: str
    seconds: float = 0.0
    username: str | None = None
    secret_id: str | None = None
    attempt: int = 1


class Retried(Event, frozen=True):
    """A request failed and will be sent again after ``wait_seconds``."""

    endpoint: str
    error: str
    wait_seconds: float


class RetryRefused(Event, frozen=True):
    """A request failed and is not retried, because the retry budget is spent."""

    endpoint: str
    error: str


class Throttled(Event, frozen=True):
    """Upstream answered 429, or asked to wait; nothing is sent for ``wait_seconds``."""

    wait_seconds: float


class RateChanged(Event, frozen=True):
    """The rate was lowered after a 429, or is recovering; ``rate`` is in requests/s."""

    rate: float


class ConcurrencyChanged(Event, frozen=True):
    """The concurrency limit adapted to latency: at most ``limit`` requests are in flight from now on."""

    limit: int


class ProviderRefused(Event, frozen=True):
    """A refresh was not sent because many refreshes of the same OAuth client have just failed.

    Attributes:
        auth_client_id: the client; empty for secrets whose client is unknown.
    """

    auth_client_id: str


class FlightJoined(Event, frozen=True):
    """A caller joined a flight for the same thing."""

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
    """Upstream failed for many users; nothing is sent for ``seconds``."""

    seconds: float


class BreakerClosed(Event, frozen=True):
    """Upstream has recovered; requests are sent as before."""


class Relisted(Event, frozen=True):
    """A listing disagreed with its own total and is fetched again."""

    username: str


class CoordinationLost(Event, frozen=True):
    """The coordination is unavailable for ``reason``; each process continues without it, as configured."""

    reason: str


class CoordinationRestored(Event, frozen=True):
    """The coordination is available again after ``seconds``."""

    seconds: float


class CoordinationDiffers(Event, frozen=True):
    """Coordinated processes have different ``settings``; empty once they agree again."""

    settings: tuple[str, ...]


class RunBegan(Event, frozen=True):
    """A sync began or resumed a run over ``total`` users; ``None`` when their number is not known."""

    run_id: str
    resumed: bool
    total: int | None


class UserSkipped(Event, frozen=True):
    """A user was synced by an earlier part of the run and is not fetched again."""

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
    """A credential works again after it was reported as broken."""

    username: str
    secret_id: str


class RunEnded(Event, frozen=True):
    """A sync ended; ``complete`` when every user was tried."""

    run_id: str
    complete: bool


Listener = Callable[[Event], object]
"""Called with every event, on the event loop and where it happens; must be quick and must not raise."""


CountAnswers = Callable[[Sequence[tuple[str, int, float]]], object]
"""Counts answers, each given by endpoint, status and seconds."""


class Emitter:
    """Passes each event to every listener.

    Args:
        listeners: called in this order, after the counters.
        counters: counts events. As long as nothing else listens, answers are counted without an event.
        count_answers: the counters' fast path for answers.

    Attributes:
        count_answers: see above; used only while there are no listeners.
        listeners: what listens besides the counters.
    """

    __slots__ = ("_counters", "count_answers", "listeners")

    def __init__(
        self,
        *listeners: Listener,
        counters: Listener | None = None,
        count_answers: CountAnswers = lambda _samples: None,
    ) -> None:
        self.listeners: list[Listener] = list(listeners)
        self._counters = counters
        self.count_answers: CountAnswers = count_answers

    @contextmanager
    def listening(self, *listeners: Listener | None) -> Iterator[None]:
        """Call additional listeners within a block; ``None`` is ignored."""
        present = [listener for listener in listeners if listener is not None]
        self.listeners += present
        try:
            yield
        finally:
            for listener in present:
                self.listeners.remove(listener)

    def emit(self, event: Event) -> None:
        """Call every listener with an event. An exception of a listener is logged."""
        if self._counters is not None:
            self._counters(event)
        for listener in self.listeners:
            try:
                listener(event)
            except Exception:  # noqa: BLE001 - an observer must never break what it observes
                _log.warning("a listener failed on %s", type(event).__name__, exc_info=True)
