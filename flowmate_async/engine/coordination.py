"""The seam to whatever lets many processes act as one: a rate, pauses and credentials that they share.

Protocols and plain values only. What fulfils them, a parent process or Redis, the client never imports.
"""

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import ClassVar, Protocol, Self, runtime_checkable

import msgspec

from flowmate_async.contract.known_secrets import SecretFacts
from flowmate_async.events import Listener
from flowmate_async.redaction import Redacted
from flowmate_async.values.secrets import Secret


class TokenLease(msgspec.Struct, frozen=True):
    """Permission to send some requests soon.

    Attributes:
        tokens: how many requests may be sent.
        valid_until: seconds on ``time.monotonic``; afterwards none of them may be sent, since tokens that
            were saved up would be a burst on top of everybody else's.
    """

    tokens: int
    valid_until: float


class CoordinationStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """What processes share, as one of them sees it.

    Attributes:
        connected: whether it can be used now.
        working: whether this process can work all the same.
        problem: why it cannot be used; empty while it can.
        outages: how often it could not be used.
        differing: settings in which the processes differ: ``key``, ``rate``, ``burst``, ``processes``.
        processes: how many share now.
    """

    connected: bool = True
    working: bool = True
    problem: str = ""
    outages: int = 0
    differing: tuple[str, ...] = ()
    processes: int = 1


class RateBudget(Protocol):
    """A rate that many processes share: tokens are leased a few at a time."""

    async def lease(self, most: int) -> TokenLease:
        """Wait for at least one token.

        Args:
            most: how many could be used at once.

        Raises:
            FlowMateError: the budget cannot be asked, and nothing may be sent without it.
        """
        ...


class RefreshLender(Protocol):
    """Slots for refreshes, and turns of secrets, that many processes share."""

    def slot(self, auth_client_id: str | None, secret_id: str) -> AbstractAsyncContextManager[object]:
        """Wait for the secret's turn and for a slot, and hold both within the context.

        Args:
            auth_client_id: the OAuth client; ``None`` when it is unknown, which counts for every client.
            secret_id: the secret.
        """
        ...


class SharedSecret(Redacted, frozen=True):
    """A credential that another process may have fetched.

    Attributes:
        secret: the credential.
        age_seconds: how long ago it was fetched.
        newest: whether upstream was asked while the caller waited, and so has no newer one.
    """

    secret: Secret
    age_seconds: float = 0.0
    newest: bool = True

    __shown__: ClassVar[tuple[str, ...]] = ("age_seconds", "newest")


Acceptable = Callable[[SharedSecret], bool]
"""Whether somebody else's answer will do."""

Recognizes = Callable[[Secret], bool]
"""Whether a credential is the one that was rejected, without saying which that was."""


class Ask(Protocol):
    """Asks upstream for one credential, when it is called."""

    @property
    def forced(self) -> bool:
        """Whether an app rejected what was held; an answer to somebody who asked for less will not do."""
        ...

    @property
    def abandoned(self) -> bool:
        """Whether upstream may still be at work on what was asked, though nobody here waits for it."""
        ...

    @property
    def may_refresh(self) -> bool:
        """Whether asking may make upstream refresh the secret, as far as this process knows now."""
        ...

    @property
    def facts(self) -> SecretFacts | None:
        """What this process knows of the secret, for others to use."""
        ...

    def learn(self, facts: SecretFacts) -> None:
        """Take note of what another process learned.

        Args:
            facts: what it learned of this secret.
        """
        ...

    def turn(self) -> AbstractAsyncContextManager[bool]:
        """Wait for the secret's turn in this process; a plain read does not wait.

        Returns:
            A context that is entered in its turn, with whether the turn is held.
        """
        ...

    def __call__(self, *, in_turn: bool = False) -> Awaitable[Secret]:
        """Ask.

        Args:
            in_turn: whether it is the secret's turn already, so that asking does not wait for it.

        Raises:
            FlowMateError: upstream has failed, or may not be asked now.
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
        """A credential that upstream is asked for by one process at a time.

        Args:
            username: the user.
            secret_id: the secret.
            ask: asks upstream.
            acceptable: whether a shared one will do; ``None`` for those only that were fetched while this
                call waited for its turn.

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
            Whether one of them has just learnt that upstream has no other.
        """
        ...

    async def confirm(self, username: str, secret_id: str, rejected: Secret, *, seconds: float) -> None:
        """Let it be known for so many seconds that upstream has no other than this rejected one.

        Args:
            username: the user.
            secret_id: the secret.
            rejected: what the app rejected.
            seconds: for how long; afterwards upstream is asked again.
        """
        ...

    def on_rejected(self, listener: Callable[[str, str, Recognizes], object]) -> None:
        """Have a listener called with user and secret id, and which credential another process rejected."""
        ...


class Coordination(Protocol):
    """What the processes of one application share; handed to :class:`~flowmate_async.FlowMate`."""

    async def __aenter__(self) -> Self:
        """Connect."""
        ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Disconnect."""
        ...

    def join(self, base_url: str) -> None:
        """Hear, once and before anything else, which FlowMate all this is about.

        Args:
            base_url: FlowMate's, as checked; part of every name.

        Raises:
            ConfigurationError: it serves another client already.
        """
        ...

    def budget(self, *, rate: float, burst: int) -> RateBudget | None:
        """The rate that is shared; ``None`` when each process keeps its own.

        Args:
            rate: requests/s of all processes together.
            burst: requests that upstream takes at once from all of them.
        """
        ...

    def credentials(self) -> SharedCredentials | None:
        """The credentials that are shared; ``None`` when each process keeps its own."""
        ...

    def pause(self, seconds: float) -> None:
        """Tell the others that upstream asked everybody to wait.

        Args:
            seconds: for how long.
        """
        ...

    def on_pause(self, listener: Callable[[float], object]) -> None:
        """Have a listener called with the seconds for which another process says to wait."""
        ...

    def on_event(self, listener: Listener) -> None:
        """Have a listener called with each event of the coordination, as ``CoordinationLost``.

        Args:
            listener: called on the event loop; must be quick.
        """
        ...

    def statistics(self) -> CoordinationStatistics | None:
        """Return how it stands; ``None`` if it cannot fail on its own."""
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
        """Have a listener called with how many requests this process may have in flight.

        Args:
            listener: called at once, and whenever that changes.
        """
        ...
