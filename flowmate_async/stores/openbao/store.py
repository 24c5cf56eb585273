"""The store in OpenBao or HashiCorp Vault: one document per user in a KV engine, version 2, over HTTP.

Writes are check-and-set; the server keeps a bounded number of versions. Redirects are not followed. Nothing
here knows what is in a document (``documents/``), or where the token is (``address.py``).
"""

import random
from collections.abc import AsyncIterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

import aiohttp
import msgspec

from flowmate_async.clock import Clock, SystemClock
from flowmate_async.errors import StoreError
from flowmate_async.redaction import Headers, Redacted, safe_text
from flowmate_async.stores.documents.base import NOT_OURS, Conflict, Document, DocumentRefused
from flowmate_async.stores.documents.store import DocumentStore
from flowmate_async.stores.documents.writes import gather_limited
from flowmate_async.stores.encoding import Plaintext
from flowmate_async.stores.openbao.address import Address, Token, parse_address
from flowmate_async.stores.url import StoreUrl
from flowmate_async.system.driver_boundary import DriverBoundary

_LEASE_SECONDS = 60.0
_TIMEOUT = aiohttp.ClientTimeout(total=30.0, connect=10.0)
_TRIES = 5
_FIRST_PAUSE_SECONDS = 0.1
_REFUSED = 403
_NOT_FOUND = 404
_TOO_LARGE = 413
_STANDBY = frozenset({307, 472, 473})
"""A standby redirects to the active node; a disaster-recovery or read replica refuses."""

_PASSING = frozenset({412, 429, 500, 502, 503, 504}) | _STANDBY
_LATER = "Run again once it answers: what was acknowledged is kept"
_NAME_THE_ACTIVE_NODE = (
    "Name the active node, or a load balancer that finds it; or set the nodes' api_addr and cluster_addr so "
    "that standbys forward requests"
)
_LARGEST_ANSWER = 64 * 1024 * 1024
_CAS_FAILED = "check-and-set"


class _Response(Redacted, frozen=True):
    """An answer, which may hold credentials."""

    status: int
    body: bytes


class _Metadata(msgspec.Struct):
    version: int = 0


class _Fields(Redacted, frozen=True):
    """One field with the document's JSON as text: the server limits the number of strings.

    Documents of other programs have other fields.
    """

    document: Any = None


class _Read(Redacted, frozen=True):
    data: _Fields
    metadata: _Metadata


class _Options(msgspec.Struct, frozen=True):
    cas: int | str


class _Write(Redacted, frozen=True):
    options: _Options
    data: _Fields


class _ReadAnswer(Redacted, frozen=True):
    data: _Read


class _Gone(msgspec.Struct):
    metadata: _Metadata


class _GoneAnswer(msgspec.Struct):
    data: _Gone


class _Keys(msgspec.Struct):
    keys: list[str] = []


class _ListAnswer(msgspec.Struct):
    data: _Keys


class _WriteAnswer(msgspec.Struct):
    data: _Metadata


class _Errors(msgspec.Struct):
    errors: list[str] = []


class OpenBaoDocuments:
    """Documents in a KV engine; see :class:`~.documents.Documents` for the methods.

    Args:
        address: which engine, where; see :func:`~.openbao_address.parse_address`.
        clock: waits between tries.
    """

    lease_seconds = _LEASE_SECONDS

    def __init__(self, address: Address, *, clock: Clock | None = None) -> None:
        self.where: str = address.where
        self._address = address
        self._clock = clock or SystemClock()
        self._session: aiohttp.ClientSession | None = None
        self._token: Token | None = None

    async def __aenter__(self) -> Self:
        """Make the session; nothing is sent yet."""
        self._token = self._address.token()
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=self._address.context() or True, limit=16),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=_TIMEOUT,
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the session."""
        session, self._session, self._token = self._session, None, None
        if session is not None:
            with DriverBoundary():
                await session.close()

    async def read(self, name: str) -> Document | None:
        """Return a document, or ``None``. A deleted, destroyed or expired one keeps its version."""
        answer = await self._ask("GET", "data", name)
        if answer is None:
            return None
        if answer.status == _NOT_FOUND:
            return Document(b"", self._decoded(answer, _GoneAnswer).data.metadata.version)
        found = self._decoded(answer, _ReadAnswer).data
        text = found.data.document
        return Document(text.encode() if isinstance(text, str) else NOT_OURS, found.metadata.version)

    async def read_many(self, names: Sequence[str]) -> Mapping[str, Document]:
        """Return those of these documents that exist."""

        async def read(name: str) -> tuple[str, Document | None]:
            return name, await self.read(name)

        found = dict(await gather_limited(read, names))
        return {name: document for name in names if (document := found[name]) is not None}

    async def write(self, name: str, text: Plaintext, *, replacing: Document | None) -> None:
        """Write a document over the one that was read, or create it."""
        if replacing is None:
            await self._bound_versions(name)
        cas = 0 if replacing is None else replacing.version
        body = _Write(_Options(cas), _Fields(text.data.decode()))
        answer = await self._ask("POST", "data", name, Plaintext(msgspec.json.encode(body)))
        if answer is None:
            raise self._failure("it has no KV engine there", "Check the URL's mount and path")
        self._decoded(answer, _WriteAnswer)

    async def delete(self, name: str) -> None:
        """Delete a document with all its versions."""
        await self._ask("DELETE", "metadata", name)

    async def names(self, prefix: str) -> AsyncIterator[str]:
        """Yield the names with this prefix, which is a folder."""
        answer = await self._ask("LIST", "metadata", prefix)
        if answer is not None:
            for key in self._decoded(answer, _ListAnswer).data.keys:
                yield prefix + key

    async def _bound_versions(self, name: str) -> None:
        settings = {"max_versions": self._address.versions, "cas_required": True}
        await self._ask("POST", "metadata", name, Plaintext(msgspec.json.encode(settings)))

    async def _ask(
        self, method: str, kind: str, name: str, text: Plaintext | None = None
    ) -> _Response | None:
        """Return a good answer, or ``None`` if it does not exist; retry transient failures.

        Raises:
            Conflict: check-and-set found another version.
            StoreError: the request was refused, or still fails after retries.
        """
        path = f"/v1/{self._address.mount}/{kind}/{self._address.path}/{name}"
        answer, reason = None, ""
        for attempt in range(_TRIES):
            if attempt:
                pause = _FIRST_PAUSE_SECONDS * 2**attempt
                await self._clock.sleep(random.uniform(pause / 2, pause))  # noqa: S311 - no secret
            answer, reason = await self._send(method, path, text)
            if answer is not None and answer.status == _REFUSED and self._has_newer_token():
                continue
            if answer is not None and answer.status not in _PASSING:
                return self._judged(answer, reason)
        standby = answer is not None and answer.status in _STANDBY
        raise self._failure(reason, _NAME_THE_ACTIVE_NODE if standby else _LATER)

    async def _send(self, method: str, path: str, text: Plaintext | None) -> tuple[_Response | None, str]:
        """Return the answer, if any, and the problem it reports."""
        if self._session is None or self._token is None:
            raise StoreError(f"the store {self.where} is not open", advice="Enter it with async with")
        headers = _headers(self._token, self._address.namespace)
        try:
            with DriverBoundary():
                async with self._session.request(
                    method,
                    self._address.origin + path,
                    headers=dict(headers.pairs),
                    data=None if text is None else text.data,
                    allow_redirects=False,
                ) as response:
                    answer = await _received(response)
        except (aiohttp.ClientError, TimeoutError, OSError) as failure:
            return None, safe_text(str(failure)) or type(failure).__name__
        return answer, _complaint(answer)

    def _has_newer_token(self) -> bool:
        """Switch to a newer token if an agent has written one meanwhile. Return whether it has."""
        before, self._token = self._token, self._address.token()
        return self._token != before

    def _judged(self, answer: _Response, complaint: str) -> _Response | None:
        if 200 <= answer.status < 300:
            return answer
        if answer.status == _NOT_FOUND and not complaint:
            return answer if _has_version(answer) else None
        if answer.status == 400 and _CAS_FAILED in complaint:
            raise Conflict
        if answer.status == _TOO_LARGE or "too large" in complaint or "exceeds" in complaint:
            raise DocumentRefused(
                f"the store {self.where} failed: the document is too large: {complaint}",
                advice="Raise the server's max_request_size and the limit of its storage",
            )
        if answer.status == _REFUSED:
            raise self._failure("the token was refused", "Check BAO_TOKEN and the policy of the token")
        raise self._failure(f"status {answer.status}: {complaint}", "Check the URL's mount and path")

    def _decoded(self, answer: _Response, kind: Any) -> Any:
        try:
            return msgspec.json.decode(answer.body, type=kind)
        except msgspec.MsgspecError:
            pass
        raise self._failure("the answer is not that of a KV engine, version 2", "Check the URL's mount")

    def _failure(self, reason: str, advice: str) -> StoreError:
        return StoreError(f"the store {self.where} failed: {reason}", advice=advice)


def _headers(token: Token, namespace: str) -> Headers:
    pairs = [("X-Vault-Token", token.text), ("X-Vault-Request", "true")]
    return Headers((*pairs, ("X-Vault-Namespace", namespace)) if namespace else tuple(pairs))


async def _received(response: aiohttp.ClientResponse) -> _Response:
    body = bytearray()
    async for piece in response.content.iter_any():
        body += piece
        if len(body) > _LARGEST_ANSWER:
            raise aiohttp.ClientPayloadError(f"an answer of more than {_LARGEST_ANSWER} bytes")
    return _Response(response.status, bytes(body))


def _complaint(answer: _Response) -> str:
    """Return the problem that a bad answer reports."""
    if answer.status < 300:
        return ""
    if answer.status in _STANDBY:
        return f"status {answer.status}: this node is a standby, and sends requests to another address"
    try:
        errors = msgspec.json.decode(answer.body, type=_Errors).errors
    except msgspec.MsgspecError:
        return "an answer that is not OpenBao's"
    return safe_text("; ".join(errors))


def _has_version(answer: _Response) -> bool:
    """Return whether this 404 is about a document that exists without content."""
    try:
        return msgspec.json.decode(answer.body, type=_GoneAnswer).data.metadata.version > 0
    except msgspec.MsgspecError:
        return False


def openbao_store(url: str | StoreUrl, *, create: bool = True) -> DocumentStore:
    """Return the store behind a URL.

    Raises:
        ConfigurationError: the URL is invalid.
    """
    url = StoreUrl.of(url)
    return DocumentStore(OpenBaoDocuments(parse_address(url)), create=create)
