"""The interface for coordinating many processes: a rate, pauses and credentials that they share.

Protocols and plain values only. The client never imports the implementations (a parent process, or Redis).
"""

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import ClassVar, Protocol, Self, runtime_checkable

import msgspec

from flowmate_async.contract.known_secrets import SecretFacts
from flowmate_async.events import Listener
from flowmate_async.health.records import Sighting
from flowmate_async.redaction import Redacted
from flowmate_async.values.secrets import Secret


class TokenLease(msgspec.Struct, frozen=True):
    """Permission to send a number of requests soon.

    Attributes:
        tokens: how many requests may be sent.
        valid_until: seconds on ``time.monotonic``. No token may be used later: saved tokens would be a burst
            on top of those of other processes.
    """

    tokens: int
    valid_until: float


class CoordinationStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """Statistics of the coordination, as one process sees it.

    Attributes:
        connected: whether it is available now.
        working: whether this process can send requests, with or without it.
        problem: why it is unavailable; empty while it is available.
        outages: how often it became unavailable.
        differing: settings in which the processes differ: ``key``, ``rate``, ``burst``, ``processes``.
        processes: how many processes share it now.
    """

    connected: bool = True
    working: bool = True
    problem: str = ""
    outages: int = 0
    differing: tuple[str, ...] = ()
    processes: int = 1


class RateBudget(Protocol):
    """A rate that many processes share. Tokens are leased a few at a time."""

    async def lease(self, most: int) -> TokenLease:
        """Wait for at least one token.

        Args:
            most: the maximum number that can be used at once.

        Raises:
            FlowMateError: the budget is unavailable, and nothing may be sent without it.
        """
        ...


class RefreshLender(Protocol):
    """Refresh slots and turns of secrets that many processes share."""

    def slot(self, auth_client_id: str | None, secret_id: str) -> AbstractAsyncContextManager[object]:
        """Wait for the secret's turn and for a slot, and hold both within the context.

        Args:
            auth_client_id: the OAuth client; ``None`` if unknown, which counts for every client.
            secret_id: the secret.
        """
        ...


class SharedSecret(Redacted, frozen=True):
    """A credential that another process may have fetched.

    Attributes:
        secret: the credential.
        age_seconds: how long ago it was fetched.
        newest: whether it was fetched while the caller waited, so that upstream has no newer one.
    """

    secret: Secret
    age_seconds: float = 0.0
    newest: bool = True

    __shown__: ClassVar[tuple[str, ...]] = ("age_seconds", "newest")


Acceptable = Callable[[SharedSecret], bool]
"""Returns whether a shared answer is acceptable."""

Recognizes = Callable[[Secret], bool]
"""Returns whether a credential is the rejected one, without revealing that one."""


class Ask(Protocol):
    """A callable that asks upstream for one credential."""

    @property
    def forced(self) -> bool:
        """Whether an app rejected the cached value, so that the answer to an unforced request will not do."""
        ...

    @property
    def abandoned(self) -> bool:
        """Whether upstream may still be working on a request that nothing here waits for."""
        ...

    @property
    def may_refresh(self) -> bool:
        """Whether the request may make upstream refresh the secret, as far as this process knows now."""
        ...

    @property
    def facts(self) -> SecretFacts | None:
        """What this process knows about the secret, for other processes."""
        ...

    def learn(self, facts: SecretFacts) -> None:
        """Record what another process learned.

        Args:
            facts: what it learned about this secret.
        """
        ...

    def turn(self) -> AbstractAsyncContextManager[bool]:
        """Wait for the secret's turn in this process. A plain read does not wait.

        Returns:
            A context that is entered when the turn has come, and yields whether the turn is held.
        """
        ...

    def __call__(self, *, in_turn: bool = False) -> Awaitable[Secret]:
        """Ask upstream.

        Args:
            in_turn: whether the caller already holds the secret's turn, and the request need not wait for it.

        Raises:
            FlowMateError: upstream failed, or may not be asked now.
        """
        ...


class SharedCredentials(Protocol):
    """Single flight and cache of credentials across processes."""

    async def fetch(
        self,
        username: str,
        secret_id: str,
        ask: Ask,
        *,
        acceptable: Acceptable | None = None,
    ) -> SharedSecret:
        """Fetch a credential from upstream, one process at a time.

        Args:
            username: the user.
            secret_id: the secret.
            ask: asks upstream.
            acceptable: whether a shared credential is acceptable; ``None`` accepts only one that was fetched
                while this call waited for its turn.

        Raises:
            FlowMateError: what ``ask`` raised; or upstream may not be asked now.
        """
        ...

    async def reject(self, username: str, secret_id: str, rejected: Secret) -> bool:
        """Tell every process that the app rejected this credential.

        Args:
            username: the user.
            secret_id: the secret.
            rejected: what the app rejected.

        Returns:
            Whether one of them has just found that upstream has no other credential.
        """
        ...

    async def confirm(self, username: str, secret_id: str, rejected: Secret, *, seconds: float) -> None:
        """Tell every process that upstream has no other credential than this rejected one.

        Args:
            username: the user.
            secret_id: the secret.
            rejected: what the app rejected.
            seconds: for how long this holds; afterwards upstream is asked again.
        """
        ...

    def on_rejected(self, listener: Callable[[str, str, Recognizes], object]) -> None:
        """Register a listener for rejections by other processes: user, secret id, and a recognizer."""
        ...


class Coordination(Protocol):
    """What the processes of one application share. It is passed to :class:`~flowmate_async.FlowMate`."""

    async def __aenter__(self) -> Self:
        """Connect."""
        ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Disconnect."""
        ...

    def join(self, base_url: str) -> None:
        """Set FlowMate's base URL. Called once, before anything else.

        Args:
            base_url: FlowMate's base URL, validated; part of every shared name.

        Raises:
            ConfigurationError: another client already uses it.
        """
        ...

    def budget(self, *, rate: float, burst: int) -> RateBudget | None:
        """Return the shared rate; ``None`` if each process keeps its own.

        Args:
            rate: requests/s of all processes together.
            burst: requests that upstream takes at once from all of them.
        """
        ...

    def credentials(self) -> SharedCredentials | None:
        """Return the shared credentials; ``None`` if each process keeps its own."""
        ...

    def pause(self, seconds: float) -> None:
        """Tell the other processes that upstream asked all clients to wait.

        Args:
            seconds: for how long.
        """
        ...

    def on_pause(self, listener: Callable[[float], object]) -> None:
        """Register a listener for pauses that another process reports, in seconds."""
        ...

    def on_event(self, listener: Listener) -> None:
        """Register a listener for events of the coordination, such as ``CoordinationLost``.

        Args:
            listener: called on the event loop; must be quick.
        """
        ...

    def statistics(self) -> CoordinationStatistics | None:
        """Return statistics; ``None`` if it cannot fail on its own."""
        ...


@runtime_checkable
class LendsRefreshes(Protocol):
    """A :class:`Coordination` whose processes also share the limit of refreshes per OAuth client."""

    def refreshes(self, limit: int) -> RefreshLender:
        """Return the lender of refresh slots.

        Args:
            limit: maximum number of refreshes of one OAuth client in all processes together.
        """
        ...


@runtime_checkable
class LendsConcurrency(Protocol):
    """A :class:`Coordination` whose processes also share the number of requests in flight."""

    def on_allotment(self, listener: Callable[[int], object]) -> None:
        """Register a listener for the number of requests this process may have in flight.

        Args:
            listener: called immediately, and whenever that number changes.
        """
        ...


@runtime_checkable
class SharesHealth(Protocol):
    """A :class:`Coordination` whose processes share what they observe of credentials' health."""

    def share_sighting(self, sighting: Sighting) -> None:
        """Tell the other processes what was observed of a credential. It must not block.

        Args:
            sighting: what was observed.
        """
        ...

    def on_sighting(self, listener: Callable[[Sighting], object]) -> None:
        """Register a listener for what another process observed.

        Args:
            listener: called on the event loop.
        """
        ...
