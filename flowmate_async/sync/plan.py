"""Delta sync: which secrets of a listing are worth fetching, and why; pure.

A listing shows of each secret its id, its name, its type, when it expires and whether a refresh has ever
failed (docs/contract/OBSERVED.md § Listing). It does not show that a password or a key was changed: such a
secret is fetched again once what is stored is old enough. So the maximum age is the maximum staleness. A new
name is stored without fetching the secret.
"""

import hashlib
from collections.abc import Mapping
from functools import lru_cache
from typing import Literal

import msgspec

from flowmate_async.contract.freshness import may_refresh
from flowmate_async.values.dates import iso, parse_date
from flowmate_async.values.models import SecretSummary
from flowmate_async.values.secrets import OAuth2Secret, Secret, SessionSecret

Reason = Literal["new", "changed", "due", "errored", "old"]
"""Why a secret is fetched: never seen; its expiry moved; upstream would refresh it, or log in; a refresh has
failed since; or what is stored is old."""

SkipReason = Literal["unchanged", "renamed", "failed_before", "volatile"]
"""Why a secret is not fetched: the listing shows no change; only its name changed, and is stored; it is due,
and its refresh has failed before with nothing changed since; or it is volatile, and left to the workers."""

Verdict = Reason | SkipReason

DEFAULT_STALENESS_SECONDS = 12 * 3600.0


class DeltaPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """What a sync fetches again.

    Attributes:
        full: everything, whatever the listing shows.
        staleness_seconds: the greatest age of what is stored; older, it is fetched again.
        staleness_by_type: the same for single types, as ``{"API_KEY": 3600.0}``.
        skip_volatile: leave secrets alone whose GET makes upstream refresh them or log in: where workers keep
            them fresh, a sync beside them would only take their turns.
        keep_tokens: keep the users' tokens in the store, sealed, so that the next sync asks for none while
            they live: up to three hours after their last use. A sync without it removes those that are kept.
    """

    full: bool = False
    staleness_seconds: float = DEFAULT_STALENESS_SECONDS
    staleness_by_type: dict[str, float] = {}
    skip_volatile: bool = False
    keep_tokens: bool = False


_SHOW_EXPIRY = (OAuth2Secret, SessionSecret)
"""Only these show their expiry in a listing, also one that says nothing of the credential's end."""

_EVERYTHING = DeltaPolicy(full=True)


class Snapshot(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One secret as it was when it was asked for last.

    Attributes:
        at: when that was, in seconds since the Unix epoch.
        expires: its expiry as a listing would show it afterwards, or nothing.
        error: a digest of the failed refresh that the listing showed, or nothing.
        failed: whether upstream could not refresh it.
        name: a digest of its name as it was listed; empty when that is not known.
        masked: whether it came masked.
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
    """What to do with the listing of one user.

    Args:
        policy: see :class:`DeltaPolicy`; by default everything is fetched.
        seen: what the user's last checkpoint keeps; nothing when there is none, or when it cannot be read.
        notes: whether anybody will ask for :meth:`seen`; a sweep without a store does not.
        reasons: where to count what is to be fetched, by why.

    Attributes:
        left: secrets that are not fetched, by id, and why.
        renamed: new names, by id, of secrets that are not fetched.
        reasons: how many were to be fetched, by why.
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
        self._takes_all = self._policy.full and not self._policy.skip_volatile and not self._seen
        self._retried = False
        self.left: dict[str, SkipReason] = {}
        self.renamed: dict[str, str] = {}
        self.reasons: dict[Verdict, int] = {} if reasons is None else reasons

    @property
    def was_masked(self) -> bool:
        """Whether a secret came masked when it was asked for last: the user may not read credentials."""
        return any(seen.masked for seen in self._seen.values())

    def insist(self, summary: SecretSummary) -> None:
        """Want a secret that :meth:`wants` has left."""
        del self.left[summary.id]
        self.renamed.pop(summary.id, None)
        self._count("old")

    def retry(self) -> None:
        """Want those as well: a run that tries a user again is there for them."""
        self._retried = True

    def wants(self, summary: SecretSummary, *, now: float) -> bool:
        """Whether to fetch this secret.

        Args:
            summary: the secret as it was listed.
            now: seconds since the Unix epoch.
        """
        if self._takes_all:
            self._count("old")
            return True
        before = self._seen.get(summary.id)
        if before is not None:
            self._next[summary.id] = before
        verdict = self._verdict(summary, before, now)
        if verdict not in ("unchanged", "failed_before", "volatile"):
            self._count(verdict)
            return True
        if before is not None and self._renames(summary, before) and verdict == "unchanged":
            verdict = "renamed"
        self.left[summary.id] = verdict
        return False

    def fetched(self, summary: SecretSummary, secret: Secret, *, now: float) -> None:
        """Note a secret that was fetched."""
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
        """Note a secret that upstream could not refresh."""
        before, expires = self._seen.get(summary.id), iso(summary.expires_at)
        name = "" if before is None else before.name  # what is stored still has that name
        self._next[summary.id] = Snapshot(
            now, expires, _digest(summary.current_error), failed=True, name=name
        )

    def masked(self, summary: SecretSummary, *, now: float) -> None:
        """Note a secret that came masked; it is wanted again until it comes in clear."""
        before = self._seen.get(summary.id) or Snapshot(now)
        self._next[summary.id] = msgspec.structs.replace(before, masked=True)

    def seen(self) -> str:
        """Return what the user's next checkpoint keeps; nothing when it takes no notes."""
        return "" if not self._notes else _encode(self._next).decode()

    def _count(self, reason: Verdict) -> None:
        self.reasons[reason] = self.reasons.get(reason, 0) + 1

    def _renames(self, summary: SecretSummary, before: Snapshot) -> bool:
        """Note the listed name; return whether it changed. An unknown earlier name counts as the same."""
        name = _digest_of_name(summary.name)
        if summary.name is None or name == before.name:
            return False
        self._next[summary.id] = msgspec.structs.replace(before, name=name)
        if before.name:
            self.renamed[summary.id] = summary.name
        return bool(before.name)

    def _verdict(self, summary: SecretSummary, before: Snapshot | None, now: float) -> Verdict:
        policy = self._policy
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
        if before.masked or not 0 <= now - before.at < limit:  # or the clock was wrong, then or now
            return "old"
        if before.failed:
            return "errored" if self._retried else "failed_before"
        return "due" if may_refresh(summary, now=now) else "unchanged"


def knows_failures(seen: str) -> bool:
    """Return whether a secret could not be refreshed when it was asked for last.

    Args:
        seen: what the user's last checkpoint keeps.
    """
    return "true" in seen and any(one.failed for one in _decoded(seen).values())


def _decoded(seen: str) -> Mapping[str, Snapshot]:
    try:
        return _decoder.decode(seen) if seen else {}
    except msgspec.MsgspecError:
        return {}  # of another version; everything is fetched once


def _digest(listed: object) -> str:
    """Return a short digest: a failed refresh shows the provider's own answer, which must not be stored."""
    if listed is None:
        return ""
    return hashlib.sha256(_encode_sorted(listed)).hexdigest()[:16]


@lru_cache(maxsize=1024)
def _digest_of_name(name: str | None) -> str:
    """Return the digest of a name; many users' secrets have the same one, that of the app."""
    return _digest(name)
