"""Delta sync: which secrets of a listing to fetch, and why. Pure.

For each secret, a listing shows its id, name, type, expiry and whether a refresh has ever failed
(docs/contract/OBSERVED.md § Listing). It does not show that a password or a key was changed, so such a secret
is fetched again once the stored value is old enough. The maximum age is therefore the maximum staleness. A
new name is stored without fetching the secret.
"""

import hashlib
from collections.abc import Collection, Mapping
from functools import lru_cache
from typing import Literal

import msgspec

from flowmate_async.contract.freshness import may_refresh
from flowmate_async.errors import ConfigurationError
from flowmate_async.values.dates import iso, parse_date
from flowmate_async.values.models import SecretSummary
from flowmate_async.values.secrets import SECRET_TYPES, OAuth2Secret, Secret, SessionSecret, UnknownSecret

Reason = Literal["new", "changed", "due", "errored", "old"]
"""Why a secret is fetched: it is new; its expiry changed; upstream would refresh it or log in; a refresh has
failed since; or the stored value is old."""

SkipReason = Literal["unchanged", "renamed", "failed_before", "volatile", "other_type"]
"""Why a secret is not fetched: the listing shows no change; only its name changed, and is stored; it is due,
but its refresh failed before and nothing has changed since; it is volatile and left to the workers; or only
other types are fetched."""

Verdict = Reason | SkipReason

DEFAULT_STALENESS_SECONDS = 12 * 3600.0


class DeltaPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """What a sync fetches again.

    Attributes:
        full: fetch everything, whatever the listing shows.
        staleness_seconds: maximum age of stored values; older ones are fetched again.
        staleness_by_type: the same for single types, such as ``{"API_KEY": 3600.0}``.
        skip_volatile: skip secrets whose GET makes upstream refresh them or log in. If workers keep them
            fresh, a sync would only compete for their turns.
        keep_tokens: keep the users' tokens in the store, sealed, so that the next sync can use them while
            they are valid: up to three hours after their last use. A sync without it removes the kept tokens.
        types: only these types are fetched, as ``secret.type`` calls them; empty for all. Stored credentials
            of other types stay as they are, unless a listing shows that upstream no longer has them.
    """

    full: bool = False
    staleness_seconds: float = DEFAULT_STALENESS_SECONDS
    staleness_by_type: dict[str, float] = {}
    skip_volatile: bool = False
    keep_tokens: bool = False
    types: tuple[str, ...] = ()


def checked_types(types: Collection[str] | None) -> tuple[str, ...]:
    """Return the types of a filter, sorted; empty for all.

    Raises:
        ConfigurationError: one is not a type of secret.
    """
    if types is None:
        return ()
    if isinstance(types, str):
        raise ConfigurationError("the types are a single text", advice='Pass a list: ["SIMPLE"]')
    known = (*SECRET_TYPES, UnknownSecret.type)
    if unknown := sorted(str(one) for one in types if one not in known):
        raise ConfigurationError(
            f"{', '.join(unknown)} is not a type of secret", advice=f"Types are {', '.join(known)}"
        )
    if not types:
        raise ConfigurationError("no type is named", advice="Leave the types out for all of them")
    return tuple(sorted(set(types)))


_SHOW_EXPIRY = (OAuth2Secret, SessionSecret)
"""Only these types show an expiry in a listing, even one unrelated to the credential's end."""

_EVERYTHING = DeltaPolicy(full=True)


class Snapshot(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The state of one secret when it was last requested.

    Attributes:
        at: when that was, in seconds since the Unix epoch.
        expires: its expiry as a listing would show it afterwards, or empty.
        error: a digest of the failed refresh that the listing showed, or empty.
        failed: whether upstream could not refresh it.
        name: a digest of its listed name; empty if unknown.
        masked: whether it was masked.
    """

    at: float
    expires: str = ""
    error: str = ""
    failed: bool = False
    name: str = ""
    masked: bool = False


_decoder = msgspec.json.Decoder(dict[str, Snapshot])
_encode = msgspec.json.Encoder().encode
_encode_sorted = msgspec.json.Encoder(order="deterministic").encode


class Plan:
    """The plan for the listing of one user.

    Args:
        policy: see :class:`DeltaPolicy`; by default everything is fetched.
        seen: the state kept in the user's last checkpoint; empty if there is none or it cannot be read.
        notes: whether :meth:`seen` will be called; a sweep without a store does not.
        reasons: counts the secrets to fetch, by reason.

    Attributes:
        left: secrets that are not fetched, with the reason by id.
        renamed: new names, by id, of secrets that are not fetched.
        reasons: number of secrets to fetch, by reason.
    """

    __slots__ = (
        "_next",
        "_notes",
        "_policy",
        "_retried",
        "_seen",
        "_takes_all",
        "left",
        "reasons",
        "renamed",
    )

    def __init__(
        self,
        policy: DeltaPolicy | None = None,
        seen: str = "",
        *,
        notes: bool = True,
        reasons: dict[Verdict, int] | None = None,
    ) -> None:
        self._notes = notes
        self._policy = policy or _EVERYTHING
        self._seen = _decoded(seen)
        self._next: dict[str, Snapshot] = {}
        self._takes_all = (
            self._policy.full and not self._policy.skip_volatile and not self._policy.types and not self._seen
        )
        self._retried = False
        self.left: dict[str, SkipReason] = {}
        self.renamed: dict[str, str] = {}
        self.reasons: dict[Verdict, int] = {} if reasons is None else reasons

    @property
    def was_masked(self) -> bool:
        """Whether a secret was masked when it was last requested: the user may not read credentials."""
        return any(seen.masked for seen in self._seen.values())

    def insist(self, summary: SecretSummary) -> None:
        """Select a secret that :meth:`wants` has left out."""
        del self.left[summary.id]
        self.renamed.pop(summary.id, None)
        self._count("old")

    def retry(self) -> None:
        """Also select secrets that failed before: that is what a retry of a user is for."""
        self._retried = True

    def wants(self, summary: SecretSummary, *, now: float) -> bool:
        """Return whether to fetch this secret.

        Args:
            summary: the secret as listed.
            now: seconds since the Unix epoch.
        """
        if self._takes_all:
            self._count("old")
            return True
        before = self._seen.get(summary.id)
        if before is not None:
            self._next[summary.id] = before
        verdict = self._verdict(summary, before, now)
        if verdict not in ("unchanged", "failed_before", "volatile", "other_type"):
            self._count(verdict)
            return True
        if before is not None and self._renames(summary, before) and verdict == "unchanged":
            verdict = "renamed"
        self.left[summary.id] = verdict
        return False

    def fetched(self, summary: SecretSummary, secret: Secret, *, now: float) -> None:
        """Record a secret that was fetched."""
        if not self._notes:
            return
        if isinstance(secret, _SHOW_EXPIRY):
            expires = iso(parse_date(secret.value.expires))
        else:
            expires = iso(summary.expires_at)
        self._next[summary.id] = Snapshot(
            now, expires, _digest(summary.current_error), name=_digest_of_name(summary.name)
        )

    def failed(self, summary: SecretSummary, *, now: float) -> None:
        """Record a secret that upstream could not refresh."""
        before, expires = self._seen.get(summary.id), iso(summary.expires_at)
        name = "" if before is None else before.name  # the stored secret still has that name
        self._next[summary.id] = Snapshot(
            now, expires, _digest(summary.current_error), failed=True, name=name
        )

    def masked(self, summary: SecretSummary, *, now: float) -> None:
        """Record a secret that was masked. It is selected again until it comes in clear."""
        before = self._seen.get(summary.id) or Snapshot(now)
        self._next[summary.id] = msgspec.structs.replace(before, masked=True)

    def seen(self) -> str:
        """Return the state for the user's next checkpoint; empty without ``notes``."""
        return "" if not self._notes else _encode(self._next).decode()

    def _count(self, reason: Verdict) -> None:
        self.reasons[reason] = self.reasons.get(reason, 0) + 1

    def _renames(self, summary: SecretSummary, before: Snapshot) -> bool:
        """Record the listed name. Return whether it changed. An unknown earlier name counts as the same."""
        name = _digest_of_name(summary.name)
        if summary.name is None or name == before.name:
            return False
        self._next[summary.id] = msgspec.structs.replace(before, name=name)
        if before.name:
            self.renamed[summary.id] = summary.name
        return bool(before.name)

    def _verdict(self, summary: SecretSummary, before: Snapshot | None, now: float) -> Verdict:
        policy = self._policy
        if policy.types and _type_of(summary) not in policy.types:
            return "other_type"
        if policy.skip_volatile and may_refresh(summary, now=now):
            return "volatile"
        if policy.full:
            return "old"
        if before is None:
            return "new"
        if before.expires != iso(summary.expires_at):
            return "changed"
        if before.error != _digest(summary.current_error):
            return "errored"
        limit = policy.staleness_by_type.get(summary.type, policy.staleness_seconds)
        if before.masked or not 0 <= now - before.at < limit:  # or a clock was wrong
            return "old"
        if before.failed:
            return "errored" if self._retried else "failed_before"
        return "due" if may_refresh(summary, now=now) else "unchanged"


def _type_of(summary: SecretSummary) -> str:
    """Return the type that the secret will have."""
    return summary.type if summary.type in SECRET_TYPES else UnknownSecret.type


def knows_failures(seen: str) -> bool:
    """Return whether any secret could not be refreshed when it was last requested.

    Args:
        seen: the state kept in the user's last checkpoint.
    """
    return "true" in seen and any(one.failed for one in _decoded(seen).values())


def _decoded(seen: str) -> Mapping[str, Snapshot]:
    try:
        return _decoder.decode(seen) if seen else {}
    except msgspec.MsgspecError:
        return {}  # from another version; everything is fetched once


def _digest(listed: object) -> str:
    """Return a short digest. A failed refresh shows the provider's own answer, which must not be stored."""
    if listed is None:
        return ""
    return hashlib.sha256(_encode_sorted(listed)).hexdigest()[:16]


@lru_cache(maxsize=1024)
def _digest_of_name(name: str | None) -> str:
    """Return the digest of a name. Many users' secrets have the same name, that of the app."""
    return _digest(name)
