"""Provider: the simulated OAuth or session service behind the secrets, and its misbehaviour.

docs/contract/OBSERVED.md § Refresh failures. It grants tokens; ``refresh.py`` does what the secret service
does with them.
"""

import hashlib
from collections import Counter
from functools import partial
from typing import Any

import anyio
import msgspec

from flowmate_async.sandbox.options import SandboxOptions
from flowmate_async.sandbox.provider_faults import ProviderFault
from flowmate_async.sandbox.secret import Secret

_ERROR_BODY = {
    "error": "bad_refresh_token",
    "error_description": "The refresh token passed is incorrect or expired.",
}
# The contract says that such a message contains the token URL; the words around it are ours.
_TOKEN_URL = "https://provider.example/oauth/token"  # noqa: S105 - an address
_FAILURE_MESSAGES = {
    ProviderFault.HTTP_ERROR: "HTTP Error Response: 400 Bad Request",
    ProviderFault.GARBAGE: (
        f"invalid json response body at {_TOKEN_URL} reason: Unexpected token < in JSON at position 0"
    ),
    ProviderFault.ROTATION_LOST: f"request to {_TOKEN_URL} failed, reason: socket hang up",
}


class Granted(msgspec.Struct, frozen=True):
    """New tokens."""

    access_token: str
    refresh_token: str
    expires_in_seconds: float


class Rejected(msgspec.Struct, frozen=True):
    """A body without a token under a status of 200."""

    body: dict[str, Any]


class ProviderError(Exception):
    """The provider answered 4xx or something unreadable; readers see the message."""


class Provider:
    """Grants a new pair of tokens for every call, and counts the calls per secret."""

    __slots__ = ("_grants", "_life_seconds", "_mint", "_rotated_away")

    def __init__(self, options: SandboxOptions) -> None:
        self._mint = options.mint_token or partial(_mint, options.seed)
        self._life_seconds = options.access_life_seconds
        self._grants: Counter[str] = Counter()
        self._rotated_away: set[str] = set()

    async def grant(
        self, secret: Secret, *, latency_seconds: float, fault: ProviderFault | None
    ) -> Granted | Rejected:
        """Refresh or log in once; raise ``ProviderError`` as the fault asks."""
        self._grants[secret.id] += 1
        number = self._grants[secret.id]
        if fault is ProviderFault.HANG:
            await anyio.sleep_forever()
        if latency_seconds > 0:
            await anyio.sleep(latency_seconds)
        if fault is ProviderFault.NO_TOKEN:
            return Rejected({"status": "ok"})
        if fault is ProviderFault.ERROR_BODY or secret.id in self._rotated_away:
            return Rejected(dict(_ERROR_BODY))
        if fault is ProviderFault.ROTATION_LOST:
            self._rotated_away.add(secret.id)
        if fault in _FAILURE_MESSAGES:
            raise ProviderError(_FAILURE_MESSAGES[fault])
        life = 0.0 if fault is ProviderFault.NO_EXPIRES_IN else self._life_seconds
        return Granted(
            self._mint("access", secret.id, number), self._mint("refresh", secret.id, number), life
        )


def _mint(seed: int, label: str, secret_id: str, number: int) -> str:
    mark = f"{seed}/{label}/{secret_id}/{number}".encode()
    return f"{label}-rotated-{number}-{hashlib.blake2b(mark, digest_size=12).hexdigest()}"
