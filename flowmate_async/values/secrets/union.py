"""The union of all secrets, and which fields each type needs."""

from datetime import datetime
from typing import Any, ClassVar, Literal, get_args

import msgspec

from flowmate_async.values.dates import parse_date
from flowmate_async.values.secrets.base import SecretBase
from flowmate_async.values.secrets.static import ApiKeySecret, MixedSecret, SimpleSecret
from flowmate_async.values.secrets.tokens import (
    OAuth1Secret,
    OAuth1TwoLeggedSecret,
    OAuth2Secret,
    SessionSecret,
)


class UnknownSecret(SecretBase, frozen=True, kw_only=True):
    """A type this library does not know, kept as it came, so that a new type never breaks a batch.

    Attributes:
        kind: upstream's word for the type.
        value: whatever upstream holds for it.
    """

    type: ClassVar[Literal["UNKNOWN"]] = "UNKNOWN"
    kind: str = msgspec.field(name="type")
    value: Any = None

    __shown__: ClassVar[tuple[str, ...]] = ("id", "kind", "expires_at")

    @property
    def expires_at(self) -> datetime | None:
        """When the credential expires; ``None`` when that is not known."""
        return parse_date(self.value.get("expires")) if isinstance(self.value, dict) else None


KnownSecret = (
    SimpleSecret
    | ApiKeySecret
    | OAuth2Secret
    | SessionSecret
    | MixedSecret
    | OAuth1Secret
    | OAuth1TwoLeggedSecret
)
Secret = KnownSecret | UnknownSecret
"""Any secret; tell them apart with ``match``, ``isinstance`` or by comparing ``type``."""

KNOWN_TYPES: dict[str, Any] = {known.type: known for known in get_args(KnownSecret)}
SECRET_TYPES: tuple[str, ...] = tuple(sorted(KNOWN_TYPES))
"""What FlowMate calls the types that are known here."""

CREDENTIALS: dict[type, tuple[str, ...]] = {
    SimpleSecret: ("passphrase",),
    ApiKeySecret: ("key",),
    OAuth2Secret: ("access_token",),
    SessionSecret: ("access_token",),
    MixedSecret: ("payload",),
    OAuth1Secret: ("access_token", "access_token_secret"),
}
"""The fields without which a secret of a type is useless. Two-legged OAuth 1 has none of its own."""
