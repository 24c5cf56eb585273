"""The store in AWS Secrets Manager: one secret per user, since secrets are billed.

Documents too long for one secret are split (``chunking.py``). Writes are check-and-set: a version's id is
derived from the id of the version it replaces, and the service refuses a second version with the same id.
Nothing here
knows what is in a document (``documents/``).
"""

import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from flowmate_async.containers import chunked
from flowmate_async.redaction import Redacted
from flowmate_async.stores.aws.calls import Address, AwsCalls, AwsResponse, Refusal, parse_address
from flowmate_async.stores.aws.chunking import Head, PartAt, encoded, head_of, split
from flowmate_async.stores.aws.session import driver
from flowmate_async.stores.documents.base import NOT_OURS, Conflict, Document, DocumentRefused
from flowmate_async.stores.documents.store import DocumentStore
from flowmate_async.stores.documents.writes import gather_limited
from flowmate_async.stores.encoding import Plaintext
from flowmate_async.stores.url import StoreUrl

# A secret may have 100 versions a day, so the run lock in the store's document is renewed rarely.
_LEASE_SECONDS = 1800.0
_IN_DELETION = "in deletion"
_NO_VALUE = "no value"
"""Placeholder version of a secret that has no readable version."""

_UNREADABLE = ("ResourceNotFound", "InvalidRequest", "DecryptionFailure")
_AT_ONCE = 20
_REREADS = 3
_VERSIONS = uuid.UUID("8f3d2c9e-0b1a-4a51-9d0c-5c1c8a1f6e7b")
_DESCRIPTION = "Credentials that flowmate_async keeps; changes made here are overwritten"


class AwsDocuments:
    """Documents in Secrets Manager; see :class:`~.documents.Documents` for the methods.

    Args:
        address: region and prefix; see :func:`~.aws_calls.parse_address`.
    """

    lease_seconds = _LEASE_SECONDS

    def __init__(self, address: Address) -> None:
        self.where: str = address.where
        self._address = address
        self._calls = AwsCalls(address)
        self._made: set[str] = set()

    async def __aenter__(self) -> Self:
        """Make the client; nothing is sent yet."""
        await self._calls.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the client."""
        await self._calls.close()

    async def read(self, name: str) -> Document | None:
        """Return a document, or ``None``. A secret without a value or in deletion counts as gone."""
        secret = self._secret_of(name)
        for _ in range(_REREADS):
            answer = await self._calls.attempt("get_secret_value", allowed=_UNREADABLE, SecretId=secret)
            if isinstance(answer, Refusal):
                return self._without_value(answer, secret)
            found = _document(answer.fields)
            if (whole := await self._whole(found)) is not None:
                return whole
        # If parts stay missing, the document is damaged; the user's next write replaces it.
        return Document(NOT_OURS, found.version)

    async def read_many(self, names: Sequence[str]) -> Mapping[str, Document]:
        """Return those of these documents that exist."""
        batches = await gather_limited(self._read_batch, chunked(names, _AT_ONCE))
        found = {name: one for batch in batches for name, one in batch.items()}
        return {name: found[name] for name in names if name in found}

    async def write(self, name: str, text: Plaintext, *, replacing: Document | None) -> None:
        """Write a document over the one that was read, or create it."""
        secret, parts = self._secret_of(name), split(text)
        if replacing is not None and replacing.version == _IN_DELETION:
            await self._restore(secret)
            raise Conflict  # what is there again is read, and changed
        if len(parts) > 1:
            places = [await self._put_part(_part(secret, at), part) for at, part in enumerate(parts)]
            text = encoded(Head(tuple(places)))
        if replacing is None:
            await self._create(secret, text)
            self._made.add(name)
        else:
            await self._replace(secret, text, replacing)
            for at in range(_parts_of(parts), _parts_of(split(Plaintext(replacing.data)))):
                await self._delete(_part(secret, at))

    async def delete(self, name: str) -> None:
        """Delete a document with all its versions and parts."""
        secret = self._secret_of(name)
        parts = [one async for one in self._listed(_part(secret, ""))]
        for one in (secret, *parts):
            await self._delete(one)
        self._made.discard(name)

    async def names(self, prefix: str) -> AsyncIterator[str]:
        """Yield the names with this prefix, including our own new ones, which the service lists late."""
        made = {name for name in self._made if name.startswith(prefix)}
        async for secret in self._listed(self._secret_of(prefix)):
            name = secret.removeprefix(f"{self._address.prefix}/")
            if "+" not in name:
                made.discard(name)
                yield name
        for name in made:
            yield name

    async def _read_batch(self, names: Sequence[str]) -> dict[str, Document]:
        secrets = {self._secret_of(name): name for name in names}
        # One secret without a value can make the service refuse the whole batch.
        answer = await self._calls.attempt(
            "batch_get_secret_value", allowed=_UNREADABLE, SecretIdList=list(secrets)
        )
        found: dict[str, Document] = {}
        for one in _values(answer):
            name = secrets[one.name]
            whole = await self._whole(one.document) or await self.read(name)
            if whole is not None:
                found[name] = whole
        # The service truncates a batch if the answer grows too large or one secret may not be read.
        for name in set(names) - set(found) - _not_found(answer, secrets):
            if (one_more := await self.read(name)) is not None:
                found[name] = one_more
        return found

    async def _whole(self, document: Document) -> Document | None:
        """Return the document joined from its parts; ``None`` when new parts have just been written."""
        head = head_of(Plaintext(document.data))
        if head is None:
            return document
        pieces = []
        for part in head.parts:
            answer = await self._calls.attempt(
                "get_secret_value", allowed=_UNREADABLE, SecretId=part.name, VersionId=part.version
            )
            if isinstance(answer, Refusal):
                return None
            pieces.append(_document(answer.fields))
        return Document(b"".join(piece.data for piece in pieces), document.version)

    def _without_value(self, refusal: Refusal, secret: str) -> Document | None:
        if refusal.is_deletion:
            return Document(b"", _IN_DELETION)
        if refusal.has_no_value:
            return Document(b"", _NO_VALUE)
        if refusal.kind == "ResourceNotFound":
            return None
        if refusal.kind == "DecryptionFailure":  # sealed with a key of another program
            return Document(NOT_OURS, _NO_VALUE)
        raise self._calls.failure(refusal, {"SecretId": secret})

    async def _create(self, secret: str, text: Plaintext) -> None:
        answer = await self._calls.attempt(
            "create_secret", text, allowed=("ResourceExists",), Name=secret, **self._new()
        )
        if isinstance(answer, Refusal):
            raise Conflict

    async def _replace(self, secret: str, text: Plaintext, replacing: Document) -> None:
        answer = await self._calls.attempt(
            "put_secret_value",
            text,
            allowed=("ResourceExists", "ResourceNotFound"),
            SecretId=secret,
            ClientRequestToken=str(uuid.uuid5(_VERSIONS, str(replacing.version))),
        )
        if isinstance(answer, Refusal):
            raise Conflict

    async def _put_part(self, secret: str, part: Plaintext) -> PartAt:
        allowed = ("ResourceNotFound", "InvalidRequest")
        answer = await self._calls.attempt("put_secret_value", part, allowed=allowed, SecretId=secret)
        if isinstance(answer, Refusal) and answer.is_deletion:
            await self._restore(secret)
            answer = await self._calls.call("put_secret_value", part, SecretId=secret)
        elif isinstance(answer, Refusal) and answer.kind == "ResourceNotFound":
            answer = await self._calls.call("create_secret", part, Name=secret, **self._new())
        if isinstance(answer, Refusal):
            raise self._calls.failure(answer, {"SecretId": secret})
        return PartAt(secret, answer.fields["VersionId"])

    async def _restore(self, secret: str) -> None:
        """Cancel a secret's scheduled deletion: its name cannot be reused for days."""
        answer = await self._calls.attempt("restore_secret", allowed=("AccessDenied",), SecretId=secret)
        if isinstance(answer, Refusal):
            raise DocumentRefused(
                f"the secret {secret} is scheduled for deletion, and these credentials may not restore it",
                advice="Permit secretsmanager:RestoreSecret, or run: aws secretsmanager restore-secret",
            )

    async def _delete(self, secret: str) -> None:
        await self._calls.attempt(
            "delete_secret", allowed=("ResourceNotFound",), SecretId=secret, ForceDeleteWithoutRecovery=True
        )

    async def _listed(self, begins: str) -> AsyncIterator[str]:
        page: dict[str, Any] = {}
        while True:
            filters = [{"Key": "name", "Values": [begins]}]
            answer = await self._calls.call("list_secrets", MaxResults=100, Filters=filters, **page)
            for one in answer.fields["SecretList"]:
                if one["Name"].startswith(begins):
                    yield one["Name"]
            if not answer.fields.get("NextToken"):
                return
            page = {"NextToken": answer.fields["NextToken"]}

    def _new(self) -> dict[str, Any]:
        """Return the parameters for creating a secret."""
        key = {"KmsKeyId": self._address.kms_key_id} if self._address.kms_key_id else {}
        return {"Description": _DESCRIPTION, "ClientRequestToken": str(uuid.uuid4()), **key}

    def _secret_of(self, name: str) -> str:
        return f"{self._address.prefix}/{name}"


def aws_store(url: str | StoreUrl, *, create: bool = True) -> DocumentStore:
    """Return the store behind a URL.

    Raises:
        ConfigurationError: the URL is invalid, or the driver is not installed.
    """
    url = StoreUrl.of(url)
    driver()
    return DocumentStore(AwsDocuments(parse_address(url)), create=create)


class _Value(Redacted, frozen=True):
    """A secret of a batch."""

    name: str
    document: Document


def _values(answer: AwsResponse | Refusal) -> list[_Value]:
    if isinstance(answer, Refusal):
        return []
    return [_Value(one["Name"], _document(one)) for one in answer.fields.get("SecretValues", ())]


def _document(fields: Mapping[str, Any]) -> Document:
    """Return a secret as a document; a binary one belongs to another program."""
    text = fields.get("SecretString")
    return Document(NOT_OURS if not text else text.encode(), fields["VersionId"])


def _part(secret: str, at: int | str) -> str:
    """Return the name of a part; users' document names never contain a plus sign."""
    return f"{secret}+{at}"


def _parts_of(parts: Sequence[Plaintext]) -> int:
    """Return how many secrets there are besides the head."""
    return len(parts) if len(parts) > 1 else 0


def _not_found(answer: AwsResponse | Refusal, secrets: Mapping[str, str]) -> set[str]:
    """Return the names of documents that certainly do not exist."""
    errors = () if isinstance(answer, Refusal) else answer.fields.get("Errors", ())
    missing = [one for one in errors if "NotFound" in one.get("ErrorCode", "")]
    return {secrets[one["SecretId"]] for one in missing if one.get("SecretId") in secrets}
