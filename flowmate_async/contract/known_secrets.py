"""What listings and answers show about secrets: their OAuth client, and until when a GET only reads.

Pure and bounded; it contains no credential. ``engine/`` uses it to decide which GETs may refresh next.
"""

import sys
from collections.abc import Iterable

import msgspec

from flowmate_async.clock import Clock
from flowmate_async.containers import LruDict
from flowmate_async.contract.freshness import plain_read_seconds
from flowmate_async.values.models import SecretSummary
from flowmate_async.values.secrets import OAuth2Value, Secret, SessionValue

CAPACITY = 32_768
"""Maximum number of remembered secrets; the least recently seen are evicted first."""


class SecretFacts(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What is known of one secret.

    Attributes:
        auth_client_id: the OAuth client behind it; ``None`` when it has none, or when none was shown.
        plain_until: until then, in seconds since the Unix epoch, a GET certainly makes upstream neither
            refresh nor log in; in the past when any GET may.
        learned_at: when upstream showed it, in seconds since the Unix epoch.
    """

    auth_client_id: str | None
    plain_until: float
    learned_at: float


class KnownSecrets:
    """A table of facts by secret id, without the user: upstream's refresh lock belongs to the secret.

    The newest statement about a secret replaces the one before. A listing that was made before a refresh and
    arrives after it costs one turn too many, and never a refresh that is taken for a plain read.

    Args:
        clock: judges on both clocks, and believes the one that says "may refresh": the wall clock may jump,
            and the monotonic one stands still while a machine sleeps.
        capacity: see :data:`CAPACITY`.
    """

    def __init__(self, *, clock: Clock, capacity: int = CAPACITY) -> None:
        self._clock = clock
        # With the end of plain reads on the monotonic clock beside the facts.
        self._known: LruDict[str, tuple[SecretFacts, float]] = LruDict(capacity)

    def __len__(self) -> int:
        return len(self._known)

    def is_known(self, secret_id: str) -> bool:
        """Return whether anything was shown of this secret."""
        return secret_id.lower() in self._known

    def is_plain(self, secret_id: str) -> bool:
        """Return whether a GET of this secret is certain to be a plain read now."""
        known = self._known.get(secret_id.lower())
        return (
            known is not None
            and self._clock.wall() <= known[0].plain_until
            and self._clock.monotonic() <= known[1]
        )

    def client_of(self, secret_id: str) -> str | None:
        """Return the OAuth client behind this secret, if one was shown."""
        known = self._known.get(secret_id.lower())
        return None if known is None else known[0].auth_client_id

    def facts(self, secret_id: str) -> SecretFacts | None:
        """Return what is known of this secret, in a form that other processes can use."""
        known = self._known.get(secret_id.lower())
        return None if known is None else known[0]

    def note(self, secret_id: str, facts: SecretFacts) -> None:
        """Remember facts that another process learned, unless newer ones are known here."""
        known = self.facts(secret_id)
        if known is None or known.learned_at <= facts.learned_at:
            seconds = facts.plain_until - self._clock.wall()
            self._keep(secret_id, facts, self._clock.monotonic() + seconds)

    def note_listed(self, summaries: Iterable[SecretSummary], *, served_at: float | None) -> None:
        """Remember what a listing shows of secrets.

        Args:
            summaries: the secrets as they were listed.
            served_at: upstream's own time of the answer, in seconds since the Unix epoch, if it gave one.
        """
        wall, monotonic, latest = self._clock.wall(), self._clock.monotonic(), self._latest(served_at)
        for summary in summaries:
            seconds = plain_read_seconds(summary.type, summary.expires_at, now=latest)
            facts = SecretFacts(_interned(summary.auth_client_id), wall + seconds, wall)
            self._keep(summary.id, facts, monotonic + seconds)

    def note_secret(self, secret: Secret, *, served_at: float | None) -> None:
        """Remember what an answer shows of a secret.

        Args:
            secret: the secret.
            served_at: see :meth:`note_listed`.
        """
        seconds = plain_read_seconds(secret.kind, secret.expires_at, now=self._latest(served_at))
        self._note(secret.id, auth_client_of(secret), seconds)

    def note_unlisted(self, secret_id: str) -> None:
        """Remember that a listing does not show this secret, unless something is known of it.

        A secret that is owned through the user's tenant is never listed (OBSERVED.md § Listing).
        """
        if not self.is_known(secret_id):
            self._note(secret_id, None, float("-inf"))

    def doubt(self, secret_id: str) -> None:
        """Revoke that a GET of this secret is a plain read. Its OAuth client stays known."""
        if self.is_known(secret_id):
            self._note(secret_id, self.client_of(secret_id), float("-inf"))

    def _note(self, secret_id: str, auth_client_id: str | None, plain_seconds: float) -> None:
        now = self._clock.wall()
        facts = SecretFacts(_interned(auth_client_id), now + plain_seconds, now)
        self._keep(secret_id, facts, self._clock.monotonic() + plain_seconds)

    def _keep(self, secret_id: str, facts: SecretFacts, plain_until_monotonic: float) -> None:
        self._known.put(secret_id.lower(), (facts, plain_until_monotonic))

    def _latest(self, served_at: float | None) -> float:
        """Return the later of this machine's time and upstream's: by the later one, more may be refreshed."""
        wall = self._clock.wall()
        return wall if served_at is None else max(wall, served_at)


def _interned(auth_client_id: str | None) -> str | None:
    """Intern a client id: a tenant has few clients, and many secrets of each."""
    return None if auth_client_id is None else sys.intern(auth_client_id)


def auth_client_of(secret: Secret) -> str | None:
    """Return the OAuth client behind a secret; ``None`` for a type that has none."""
    value = secret.value
    return value.auth_client_id if isinstance(value, OAuth2Value | SessionValue) else None
