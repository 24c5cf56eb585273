"""One secret as the secret service stores it, and the two shapes in which it is shown.

docs/contract/OBSERVED.md § Listing and § One secret. Other modules decide who may see it, what is masked and
when it is refreshed.
"""

import hashlib
from typing import Any

import msgspec

from flowmate_async.sandbox.provider_faults import ProviderFault

Value = dict[str, Any]
"""The credential itself: its keys depend on the type, and the upstream's JSON sets no limit."""

_SEALED_FIELDS = ("refreshToken", "inputFields")
_LISTED_FIELDS = ("authClientId", "scope", "expires", "externalId")
_CIPHER_BLOCK_BYTES = 16
_MASK_LIKE = "\n*\xe9\x07a\x93"


class Owner(msgspec.Struct, frozen=True):
    """Owner of a secret.

    Attributes:
        id: its internal id.
        type: ``USER`` or ``TENANT``.
    """

    id: str
    type: str = "USER"


class Secret(msgspec.Struct, kw_only=True):
    """Stored secret (docs/contract/OBSERVED.md § One secret).

    Mutable on purpose: refreshes rotate it, and a test may put any value into it.

    Attributes:
        id: its id.
        name: the name its user gave it.
        owners: who may fetch it.
        type: the contract's word for its type.
        value: the credential in plaintext, with the contract's field names.
        created_at: in ISO 8601.
        updated_at: in ISO 8601.
        sealed: the ciphertexts that readers get instead of single fields, until the next refresh.
        looks_masked: whether its ciphertexts look like a mask, as a few do by chance
            (docs/contract/OBSERVED.md § Second look).
        domain: only displayed.
        mixed_properties: only displayed.
        version: counts its refreshes.
        locked_at: since when a refresh holds its lock, in seconds since the epoch; ``None`` when none does.
        was_locked: whether a refresh ever did.
        current_error: the last refresh's failure, which no success clears.
        fault: how its own provider misbehaves.
    """

    id: str
    name: str
    owners: tuple[Owner, ...]
    type: str
    value: Value
    created_at: str
    updated_at: str
    sealed: dict[str, str] = msgspec.field(default_factory=dict)
    looks_masked: bool = False
    domain: str | None = None
    mixed_properties: dict[str, Any] | None = None
    version: int = 0
    locked_at: float | None = None
    was_locked: bool = False
    current_error: dict[str, Any] | None = None
    fault: ProviderFault | None = None


def seal(plain: object, *, looks_masked: bool = False) -> str:
    """Return a stand-in for a ciphertext: control and latin-1 characters, never a secret.

    One block of 16 for every 16 bytes or part of them, as in the recorded ciphertexts. With ``looks_masked``
    the
    last line is a star and four characters, as some ciphertexts happen to be (§ Second look).
    """
    raw = msgspec.json.encode(plain)
    blocks = len(raw) // _CIPHER_BLOCK_BYTES + 1
    noise = hashlib.shake_128(raw).digest(blocks * _CIPHER_BLOCK_BYTES)
    text = noise.decode("latin-1")
    return f"{text[: -len(_MASK_LIKE)]}{_MASK_LIKE}" if looks_masked else text


def list_item(secret: Secret) -> dict[str, Any]:
    """Show a secret in a list: no credential, no timestamp (§ Listing)."""
    item: dict[str, Any] = {}
    value = {name: secret.value[name] for name in _LISTED_FIELDS if name in secret.value}
    if value:
        item["value"] = value
    item["_id"] = secret.id
    item["name"] = secret.name
    item["owners"] = secret.owners
    item["type"] = secret.type
    item["__t"] = f"S_{secret.type}"
    if secret.current_error is not None:
        item["currentError"] = secret.current_error
    return item


def view(secret: Secret, *, locked_at: str | None, in_clear: bool) -> dict[str, Any]:
    """Show a secret by itself, with its sealed fields in clear or as ciphertext (§ One secret)."""
    value = dict(secret.value)
    hidden = [] if in_clear else [name for name in _SEALED_FIELDS if value.get(name)]
    for name in hidden:
        value[name] = secret.sealed.get(name) or seal(value[name], looks_masked=secret.looks_masked)
    return {"value": value, **_envelope(secret, hidden, locked_at)}


def _envelope(secret: Secret, hidden: list[str], locked_at: str | None) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "_id": secret.id,
        "name": secret.name,
        "owners": secret.owners,
        "type": secret.type,
    }
    if secret.domain is not None:
        shown["domain"] = secret.domain
    shown["encryptedFields"] = hidden
    if secret.mixed_properties is not None:
        shown["mixedProperties"] = secret.mixed_properties
    shown["__t"] = f"S_{secret.type}"
    shown["createdAt"] = secret.created_at
    shown["updatedAt"] = secret.updated_at
    shown["__v"] = secret.version
    if secret.was_locked:
        shown["lockedAt"] = locked_at
    if secret.current_error is not None:
        shown["currentError"] = secret.current_error
    return shown
