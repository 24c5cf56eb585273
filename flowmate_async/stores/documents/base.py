"""The protocol for services that keep documents: one per user, one for the store itself.

The service encrypts and controls access, so documents are plain JSON, which other programs with permission
can read. Nothing here knows a service, and no service knows what is in a document.
"""

import hashlib
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from types import TracebackType
from typing import ClassVar, Protocol, Self

import msgspec

from flowmate_async.errors import StoreError
from flowmate_async.health.records import HealthRecord, Notice
from flowmate_async.redaction import Redacted
from flowmate_async.stores.base import Checkpoint, Run, StoredItem, UserWrite, is_proven
from flowmate_async.stores.encoding import Plaintext, encode_secret, secret_of
from flowmate_async.stores.health import health_changes
from flowmate_async.values.secrets import Secret

FORMAT = 1
STATE = "store"
"""The name of the document that describes the store and its runs."""

USERS = "users/"
"""The prefix of the names of users' documents."""

_LONGEST_NAME = 400
_HASHED = "=sha256="
_HASHED_NAME = re.compile(f"{USERS}{_HASHED}[0-9a-f]{{64}}")
_ESCAPED = re.compile(r"=([0-9A-F]{2})")
# A final hyphen and six characters look like the end of an ARN; dots alone are steps in a path.
_PLAIN = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_@")


class Document(Redacted, frozen=True):
    """A document that was read.

    Attributes:
        data: its JSON; ``NOT_OURS`` when it has another form; empty when it was deleted or never had a value.
        version: the service's id of this version.
    """

    data: bytes
    version: str | int

    __shown__: ClassVar[tuple[str, ...]] = ("version",)

    @property
    def is_gone(self) -> bool:
        """Return whether the document is gone and only its name is left."""
        return not self.data


NOT_OURS = b"{}"
"""The data of a document that does not have our form, for example a binary one."""


class Conflict(Exception):  # noqa: N818 - no error: the document is read again
    """The document has changed since it was read."""


class DocumentRefused(StoreError):  # noqa: N818 - a StoreError, and named so for those who use the library
    """Raised when the service refuses this document, but not others."""


class Documents(Protocol):
    """What a service must be able to do. Its failures are :class:`~flowmate_async.StoreError`.

    Attributes:
        where: the service and the place in it, for messages.
        lease_seconds: how long a vanished process still holds the run lock.
    """

    where: str
    lease_seconds: float

    async def __aenter__(self) -> Self: ...
    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    async def read(self, name: str) -> Document | None:
        """Return a document, or ``None``. A deleted document that keeps its name is returned as gone."""
        ...

    async def read_many(self, names: Sequence[str]) -> Mapping[str, Document]:
        """Return those of these documents that exist; documents that are gone may be included."""
        ...

    async def write(self, name: str, text: Plaintext, *, replacing: Document | None) -> None:
        """Write a document over the one that was read, even if that is gone, or create it.

        Raises:
            Conflict: another writer has changed it since.
            DocumentRefused: the service refuses this document, for example because it is too large.
        """
        ...

    async def delete(self, name: str) -> None:
        """Delete a document with all its versions."""
        ...

    def names(self, prefix: str) -> AsyncIterator[str]:
        """Yield the names with this prefix, in any order."""
        ...


class RunLease(msgspec.Struct, frozen=True):
    """The holder of the run lock, and its expiry in seconds since the Unix epoch unless it is renewed."""

    owner: str
    until: float


class StoreState(msgspec.Struct, frozen=True, kw_only=True):
    """The store's own document.

    Attributes:
        format: the format of all documents.
        origin: the upstream it is bound to, if it is.
        runs: the runs that are remembered.
        lease: who holds the run lock.
        refused: the checkpoints of users whose own documents were refused, by run and user.
    """

    format: int = FORMAT
    origin: str | None = None
    runs: tuple[Run, ...] = ()
    lease: RunLease | None = None
    refused: dict[str, dict[str, Checkpoint]] = {}


class StoredSecret(Redacted, frozen=True, kw_only=True, omit_defaults=True):
    """A credential in its user's document, in upstream's form."""

    secret: msgspec.Raw
    stored_at: float
    type: str = ""
    expires_at: str | None = None
    missing_run: str | None = None
    removed_at: float | None = None


class UserDocument(Redacted, frozen=True, kw_only=True):
    """The document of a user: credentials, recent checkpoints, health and an outbox.

    Versions that do not know health and outbox can still read a document without them.
    """

    username: str
    secrets: dict[str, StoredSecret] = msgspec.field(default_factory=dict)
    checkpoints: dict[str, Checkpoint] = msgspec.field(default_factory=dict)
    health: dict[str, HealthRecord] | msgspec.UnsetType = msgspec.UNSET
    notices: tuple[Notice, ...] | msgspec.UnsetType = msgspec.UNSET

    __shown__: ClassVar[tuple[str, ...]] = ("username",)

    def items(self) -> list[StoredItem]:
        """Return the entries of the credentials, in order."""
        return [
            StoredItem(
                username=self.username,
                secret_id=secret_id,
                type=stored.type,
                expires_at=stored.expires_at,
                stored_at=stored.stored_at,
                removed_at=stored.removed_at,
            )
            for secret_id, stored in sorted(self.secrets.items())
        ]


_state_decoder = msgspec.json.Decoder(StoreState)
_user_decoder = msgspec.json.Decoder(UserDocument)


def state_of(document: Document, *, where: str) -> StoreState:
    """Return the store's own document.

    Raises:
        StoreError: it is none, or of a newer version.
    """
    try:
        state = _state_decoder.decode(document.data)
    except msgspec.MsgspecError:
        state = None
    if state is None or state.format > FORMAT:
        raise StoreError(
            f"the store {where} is not one that this version can read",
            advice="Upgrade flowmate-async, or name another place",
        )
    return state


def decoded_user(document: Document) -> UserDocument | None:
    """Decode a document as a user's; ``None`` when it has another form."""
    try:
        return _user_decoder.decode(document.data)
    except msgspec.MsgspecError:
        return None


def user_of(document: Document, name: str) -> UserDocument | None:
    """Return a user's document; ``None`` when it has another form or names another user.

    Args:
        document: what was read.
        name: the name it was read under; a copy, a restored version or a rename may have put it there.
    """
    user = decoded_user(document)
    return user if user is not None and name_of(user.username) == name else None


def plaintext_of(value: StoreState | UserDocument) -> Plaintext:
    """Encode a document."""
    return Plaintext(msgspec.json.encode(value))


def opened(stored: StoredSecret, secret_id: str) -> Secret | None:
    """Decode the credential; ``None`` when it is damaged or belongs to another secret."""
    secret = secret_of(Plaintext(bytes(stored.secret)))
    return secret if secret is not None and secret.id == secret_id else None


def stored_secret(username: str, secret: Secret, *, at: float) -> StoredSecret:
    """Encode a credential.

    Raises:
        StoreError: it cannot be encoded.
    """
    moment = secret.expires_at
    return StoredSecret(
        secret=msgspec.Raw(encode_secret(username, secret).data),
        stored_at=at,
        type=secret.kind,
        expires_at=None if moment is None else moment.isoformat(),
    )


def updated(found: UserDocument, run: Run, user: UserWrite) -> tuple[UserDocument, int]:
    """Return a user's document after a write, and the number of new or changed credentials."""
    secrets, changed = _with_secrets(found, user)
    return msgspec.structs.replace(
        found,
        username=user.checkpoint.username,
        secrets=_noted(secrets, run, user),
        checkpoints=found.checkpoints | {run.id: user.checkpoint},
        health=_with_observations(found, user, changed) or msgspec.UNSET,
    ), len(changed)


def _with_secrets(found: UserDocument, user: UserWrite) -> tuple[dict[str, StoredSecret], list[str]]:
    """Return a user's credentials after a write, and the ids of those that are new or have changed."""
    username, at = user.checkpoint.username, user.checkpoint.at
    secrets = dict(found.secrets)
    changed: list[str] = []
    for secret in user.secrets:
        new = stored_secret(username, secret, at=at)
        if secret.id not in secrets or opened(secrets[secret.id], secret.id) != opened(new, secret.id):
            secrets[secret.id] = new
            changed.append(secret.id)
    for secret_id, name in user.renamed.items():
        before = opened(secrets[secret_id], secret_id) if secret_id in secrets else None
        if before is not None:
            secrets[secret_id] = stored_secret(username, msgspec.structs.replace(before, name=name), at=at)
    return secrets, changed


def _noted(secrets: Mapping[str, StoredSecret], run: Run, user: UserWrite) -> dict[str, StoredSecret]:
    """Return a user's credentials with notes of what the listing lacks, and without notes of what is back."""
    present = set(user.present)
    noted = dict(secrets)
    for secret_id, stored in secrets.items():
        if secret_id in present:
            noted[secret_id] = msgspec.structs.replace(stored, missing_run=None, removed_at=None)
        elif user.listed is not None:
            noted[secret_id] = msgspec.structs.replace(stored, missing_run=run.id)
    return noted


def _with_observations(
    found: UserDocument, user: UserWrite, changed: Sequence[str]
) -> dict[str, HealthRecord]:
    """Return a user's health records after a write that changed these credentials."""
    records = dict(found.health or {})
    username = user.checkpoint.username
    changes = health_changes([user], records.values(), [(username, one) for one in changed])
    records |= {record.secret_id: record for record in changes.put}
    for _, secret_id in changes.gone:
        del records[secret_id]
    return records


def judged(user: UserDocument, run: Run) -> list[StoredSecret]:
    """Return what a run could judge of a user's unmarked credentials."""
    proven = is_proven(user.checkpoints.get(run.id))
    unmarked = [stored for stored in user.secrets.values() if stored.removed_at is None]
    return [stored for stored in unmarked if proven or stored.missing_run == run.id]


def name_of(username: str) -> str:
    """Return the name of a user's document: special characters are escaped, very long names are hashed."""
    encoded = "".join(chr(one) if one in _PLAIN else f"={one:02X}" for one in username.encode())
    if len(encoded) > _LONGEST_NAME:
        encoded = _HASHED + hashlib.sha256(username.encode()).hexdigest()
    return USERS + encoded


def username_of(name: str) -> str | None:
    """Return the user whose document has this name; ``None`` if it is hashed, or not a user's."""
    try:
        username = _ESCAPED.sub(lambda found: chr(int(found[1], 16)), name.removeprefix(USERS))
        decoded = username.encode("latin-1").decode()
    except UnicodeError:
        return None
    return decoded if name_of(decoded) == name else None


def is_hashed(name: str) -> bool:
    """Return whether this document name is hashed because the username is too long."""
    return _HASHED_NAME.fullmatch(name) is not None
