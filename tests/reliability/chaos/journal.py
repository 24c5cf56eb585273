"""The journal of a run: every request at the client's transport seam, every token and grant of the twin.

It watches, and changes nothing: neither what is sent nor what is answered.
"""

import asyncio
import email.utils
import hashlib
import json
import re
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, Self

import msgspec

from flowmate_async import ImmediateTransport, Response, Secret, TransportError
from flowmate_async.redaction import Headers
from flowmate_async.sandbox import Sandbox
from flowmate_async.sandbox import Secret as TwinSecret
from flowmate_async.sandbox.timestamps import instant_of
from flowmate_async.transport.base import Limits

from .plan import RETRY_AFTER_CAP_SECONDS
from .record import GET, IMPERSONATE, LIST, USERS, Content, Grant, Life, Record, Send
from .stepped_loop import wall

_UPSTREAMS_BUSINESS = ("refreshToken", "inputFields")
_PUBLIC = {"authClientId", "scope", "expires", "expiresAt", "externalId", "headerName", "counter", "tags"}
_SHORTEST_SECRET = 8
_WORD = re.compile(r"[a-z0-9]+-[0-9a-f]{11}-[0-9a-f]{16}")
"""What the sandbox's made-up credentials are built of: a leak of a part is a leak."""


def content_of(kind: str, value: Any) -> Content:
    """A credential in the one form in which answers, truth and store are compared."""
    fields = value if isinstance(value, dict) else {"value": value}
    kept = {name: part for name, part in fields.items() if name not in _UPSTREAMS_BUSINESS}
    return kind, {name: part for name, part in kept.items() if part is not None}


def content_of_secret(secret: Secret) -> Content:
    """A credential of the client's."""
    value = msgspec.json.decode(msgspec.json.encode(secret))["value"]
    return content_of(secret.kind, value | value.pop("_extra", {}))


def could_refresh(secret: TwinSecret, *, now: float, below_seconds: float) -> bool:
    """Return whether a GET makes upstream refresh or log in (docs/contract/OBSERVED.md § One secret)."""
    expires = secret.value.get("expires")
    if secret.type == "SESSION_AUTH" or (
        secret.type == "OA2_AUTHORIZATION_CODE" and secret.value.get("refreshToken")
    ):
        due = not expires
    else:
        return False
    instant = instant_of(expires) if isinstance(expires, str) else None
    return due or (instant is not None and instant - now <= below_seconds)


class Journal:
    """Writes the record of one run.

    Attributes:
        record: what it writes.
        usernames: user token -> whose it is.
    """

    def __init__(self, record: Record) -> None:
        self.record = record
        self.usernames: dict[str, str] = {}
        self._twin: Sandbox | None = None

    def mint(self, label: str, secret_id: str, number: int) -> str:
        """The sandbox's provider makes a token."""
        mark = hashlib.blake2b(
            f"{self.record.plan.seed}/{label}/{secret_id}/{number}".encode(), digest_size=8
        )
        token = f"{label}-granted-{number}-{mark.hexdigest()}"
        self.record.hidden.add(token)
        if label == "access":
            self.record.grants.append(Grant(secret_id, number, token))
        return token

    def watch(self, twin: Sandbox) -> None:
        """Write down what the sandbox is, and from now on whom it gives tokens and whom it loses."""
        self._twin = twin
        self.record.hidden.add(twin.admin_token)
        for user in twin.world.users():
            if not user.reads_raw:
                self.record.unreadable.add(user.username)
            for secret in twin.world.live_secrets_of(user):
                self.secret_added(user.username, secret, born=0)
        delete_user = twin.world.delete_user

        def deleted(username: str) -> None:
            self._user_deleted(username)
            delete_user(username)

        twin.world.delete_user = deleted  # type: ignore[method-assign]
        twin.world.tokens = _NotedTokens(twin.world.tokens, self)  # type: ignore[assignment]

    def secret_added(self, username: str, secret: TwinSecret, *, born: int | None = None) -> None:
        """A secret exists."""
        if secret.id in self.record.lives:
            self.record.lives[secret.id].owners.add(username)
            return
        content = content_of(secret.type, secret.value)
        begun = len(self.record.sends) if born is None else born
        self.record.lives[secret.id] = Life({username}, begun, None, content, content[1].get("accessToken"))
        texts = {text for text in _strings(secret.value) if len(text) >= _SHORTEST_SECRET}
        self.record.hidden |= texts | {word for text in texts for word in _WORD.findall(text)}

    def secret_removed(self, secret: TwinSecret) -> None:
        """A secret is about to be deleted."""
        life = self.record.lives[secret.id]
        life.died, life.last = len(self.record.sends), content_of(secret.type, secret.value)

    def _user_deleted(self, username: str) -> None:
        assert self._twin is not None
        self.record.deleted.setdefault(username, len(self.record.sends))
        for secret in self._twin.world.secrets_of(username):
            life = self.record.lives[secret.id]
            life.left.add(username)
            if life.left >= life.owners:
                self.secret_removed(secret)

    def close(self) -> None:
        """Write down what the sandbox is at the end."""
        assert self._twin is not None
        for user in self._twin.world.users():
            if not user.reads_raw:
                self.record.masked_at_end.add(user.username)
            for secret in self._twin.world.live_secrets_of(user):
                self.record.lives[secret.id].last = content_of(secret.type, secret.value)

    def could_refresh(self, secret_id: str | None) -> bool:
        """Return whether a GET that begins now would refresh."""
        assert self._twin is not None
        secret = None if secret_id is None else self._twin.world.glance(secret_id)
        below = self._twin.options.refresh_below_seconds
        return secret is not None and could_refresh(secret, now=time.time(), below_seconds=below)


class _NotedTokens:
    """The sandbox's table of tokens; each that is issued is noted."""

    def __init__(self, tokens: Any, journal: Journal) -> None:
        self._tokens = tokens
        self._journal = journal

    def issue(self, user: Any) -> Any:
        """Issue one."""
        issued = self._tokens.issue(user)
        self._journal.usernames[issued.token] = user.username
        self._journal.record.hidden.add(issued.token)
        return issued

    def live_longer(self, seconds: float) -> None:
        """Let tokens live this long from their next use."""
        self._tokens._life_seconds = seconds

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokens, name)


class Tap:
    """A transport that notes every request of one client and hands it to the real one."""

    def __init__(self, carrier: ImmediateTransport, journal: Journal, *, client: int) -> None:
        self._carrier = carrier
        self._journal = journal
        self._client = client

    async def __aenter__(self) -> Self:
        await self._carrier.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._carrier.__aexit__(kind, error, trace)

    async def send(
        self, method: str, path: str, headers: Headers, body: bytes | None, limits: Limits
    ) -> Response:
        """Note, and send."""
        send = self._begun(method, path, headers, body)
        send.outcome = "cancelled"
        try:
            response = await self._carrier.send(method, path, headers, body, limits)
        except TransportError as broken:
            send.outcome = broken.failure
            raise
        else:
            _note_answer(send, response, dates=not self._journal.record.plan.clock_jumps)
            return response
        finally:
            self._ended(send)

    def send_at_once(
        self,
        method: str,
        path: str,
        headers: Headers,
        body: bytes | None,
        limits: Limits,
        *,
        then: Callable[[Response | TransportError], object],
    ) -> bool:
        """Note, and send, if the real one can."""
        send = self._begun(method, path, headers, body)
        send.outcome = "cancelled"
        dates = not self._journal.record.plan.clock_jumps

        def told(outcome: Response | TransportError) -> None:
            if isinstance(outcome, TransportError):
                send.outcome = outcome.failure
            else:
                _note_answer(send, outcome, dates=dates)
            self._ended(send)
            then(outcome)

        if not self._carrier.send_at_once(method, path, headers, body, limits, then=told):
            self._journal.record.sends.pop()  # nothing was sent
            return False
        return True

    def _ended(self, send: Send) -> None:
        send.ended, send.ended_wall = asyncio.get_running_loop().time(), wall()
        send.ended_before = len(self._journal.record.sends)

    def _begun(self, method: str, path: str, headers: Headers, body: bytes | None) -> Send:
        endpoint, secret_id = _endpoint_of(method, path)
        token = dict(headers.pairs)["Authorization"].removeprefix("Bearer ")
        username = self._journal.usernames.get(token)
        if body is not None:
            username = json.loads(body)["username"]
        sends = self._journal.record.sends
        send = Send(
            client=self._client,
            number=len(sends),
            endpoint=endpoint,
            username=username,
            secret_id=secret_id,
            refreshing=self._journal.could_refresh(secret_id),
            began=asyncio.get_running_loop().time(),
        )
        sends.append(send)
        return send


def _endpoint_of(method: str, path: str) -> tuple[str, str | None]:
    if method == "POST":
        return IMPERSONATE, None
    if path.startswith("/users"):
        return USERS, None
    last = path.partition("?")[0].removeprefix("/secrets/")
    return (GET, last) if last else (LIST, None)


def _note_answer(send: Send, response: Response, *, dates: bool) -> None:
    send.outcome = str(response.status)
    said = _json(response.body)
    if response.status in (403, 404):
        send.verdict = isinstance(said, dict) and isinstance(said.get("message"), str)
    if response.status == 429:
        asked = _retry_after(response.headers.get("retry-after", ""), dates=dates)
        send.pause_seconds = min(asked, RETRY_AFTER_CAP_SECONDS)
    elif response.status != 200:
        send.said = said.get("message", "") if isinstance(said, dict) else ""
    elif send.endpoint == GET and isinstance(said, dict) and isinstance(said.get("data"), dict):
        data = said["data"]
        if isinstance(data.get("type"), str) and data.get("_id") == send.secret_id and "value" in data:
            send.answer = content_of(data["type"], data["value"])
            send.masked = any(map(_is_mask, _strings(send.answer[1])))


def _is_mask(text: str) -> bool:
    """Return whether a value is stars, or stars but for the last four characters (§ One secret)."""
    return bool(text) and (set(text) == {"*"} or (len(text) >= 10 and set(text[:-4]) == {"*"}))


def _json(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError:  # not JSON, or not UTF-8
        return None


def _retry_after(raw: str, *, dates: bool) -> float:
    """Seconds that an answer asks for; a client whose clock is wrong cannot obey a date."""
    if raw.isdigit():
        return float(raw)
    if not raw or not dates:
        return 0.0
    return max(0.0, email.utils.parsedate_to_datetime(raw).timestamp() - wall())


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for name, part in value.items():
            if name not in _PUBLIC:
                yield from _strings(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _strings(part)
