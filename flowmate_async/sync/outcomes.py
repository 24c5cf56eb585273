"""The outcome of one user of a sweep, as values."""

from collections.abc import Mapping
from typing import ClassVar

from flowmate_async.errors import FlowMateError
from flowmate_async.health.records import Sighting
from flowmate_async.redaction import Redacted
from flowmate_async.sync.plan import SkipReason
from flowmate_async.values.models import KeptToken
from flowmate_async.values.secrets import Secret


class UserSynced(Redacted, frozen=True, kw_only=True):
    """All of a user's credentials were fetched.

    Attributes:
        username: the user.
        secrets: every secret of the listing, with its credential, except those in ``left``.
        requests: how many requests it took.
        seconds: how long it took.
        listing_proven: whether the listing was checked against upstream's total.
        left: secrets that were not fetched, with the reason by id.
        renamed: new names of secrets that were not fetched, by id; none in a sweep.
        seen: the state that the next delta sync compares with; empty in a sweep.
        token: the user's token, if it is kept for the next sync; none in a sweep.
        sightings: what was observed of credentials that are not plainly healthy.
        renewed: the number of renewed credentials by OAuth client, as JSON.
    """

    username: str
    secrets: tuple[Secret, ...]
    requests: int
    seconds: float
    listing_proven: bool = True
    left: Mapping[str, SkipReason] = {}
    renamed: Mapping[str, str] = {}
    seen: str = ""
    token: KeptToken | None = None
    sightings: tuple[Sighting, ...] = ()
    renewed: str = ""

    __shown__: ClassVar[tuple[str, ...]] = ("username", "requests", "seconds")


class UserFailed(Redacted, frozen=True, kw_only=True, gc=True):  # an error has a traceback
    """Some of a user's data could not be fetched.

    Attributes:
        username: the user.
        error: the first failure.
        secrets: the secrets that could be fetched.
        missed: number of secrets of the listing that could not be fetched.
        requests: how many requests it took.
        seconds: how long it took.
        left: secrets that were not fetched, with the reason by id.
        renamed: new names of secrets that were not fetched, by id; none in a sweep.
        seen: the state that the next delta sync compares with; empty in a sweep.
        token: the user's token, if it is kept for the next sync; none in a sweep.
        sightings: what was observed of credentials that are not plainly healthy.
        renewed: the number of renewed credentials by OAuth client, as JSON.
    """

    username: str
    error: FlowMateError
    secrets: tuple[Secret, ...] = ()
    missed: int = 0
    requests: int = 0
    seconds: float = 0.0
    left: Mapping[str, SkipReason] = {}
    renamed: Mapping[str, str] = {}
    seen: str = ""
    token: KeptToken | None = None
    sightings: tuple[Sighting, ...] = ()
    renewed: str = ""

    __shown__: ClassVar[tuple[str, ...]] = ("username", "error", "requests", "seconds")


Outcome = UserSynced | UserFailed
