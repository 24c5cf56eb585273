"""User tokens: opaque, with a sliding life, revocable.

docs/contract/OBSERVED.md § Impersonation. Other modules decide who may get one.
"""

import secrets
from collections.abc import Callable

import msgspec

from flowmate_async.sandbox.ids import IdSpace
from flowmate_async.sandbox.user import User

_ENTROPY_BYTES = 128
"""128 bytes are the 171 url-safe characters that were observed."""


def new_token() -> str:
    """Return a random token."""
    return secrets.token_urlsafe(_ENTROPY_BYTES)


class IssuedToken(msgspec.Struct, frozen=True):
    """Answer to an impersonation. ``id`` is that of the token and not of the user, as recorded."""

    token: str
    id: str


class _Grant(msgspec.Struct):
    user: User
    dies_at: float


class Tokens:
    """Token table. Every use of a token prolongs its life."""

    __slots__ = ("_grants", "_ids", "_issued", "_life_seconds", "_now")

    def __init__(self, ids: IdSpace, *, life_seconds: float, now: Callable[[], float]) -> None:
        self._ids = ids
        self._issued = 0
        self._life_seconds = life_seconds
        self._now = now
        self._grants: dict[str, _Grant] = {}

    def __len__(self) -> int:
        """Return how many tokens are known, including expired ones that were not used since."""
        return len(self._grants)

    def issue(self, user: User) -> IssuedToken:
        """Return a new token; older ones of the same user stay valid."""
        token = new_token()
        self._issued += 1
        self._grants[token] = _Grant(user, self._now() + self._life_seconds)
        return IssuedToken(token, self._ids.id_of(self._issued))

    def use(self, token: str) -> User | None:
        """Return whose token it is and prolong it; None for an unknown or expired one."""
        grant = self._grants.get(token)
        if grant is None:
            return None
        now = self._now()
        if now >= grant.dies_at:
            del self._grants[token]
            return None
        grant.dies_at = now + self._life_seconds
        return grant.user

    def holder(self, token: str) -> User | None:
        """Return whose token it is, without using it."""
        grant = self._grants.get(token)
        return None if grant is None or self._now() >= grant.dies_at else grant.user

    def revoke(self, username: str | None = None) -> int:
        """Revoke the tokens of one user, or of all; return how many there were."""
        doomed = [
            token
            for token, grant in self._grants.items()
            if username is None or grant.user.username == username
        ]
        for token in doomed:
            del self._grants[token]
        return len(doomed)
