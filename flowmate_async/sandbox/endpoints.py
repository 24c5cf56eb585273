"""Endpoints: one method for each route of the contract, from a request to its answer.

The checks stand in the order in which the services make them. No endpoint knows of latency, limits
or connections.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from itertools import islice
from urllib.parse import parse_qs

import msgspec
from aiohttp import web

from . import answers
from .answers import Answer, error, json_answer, json_body
from .ids import is_object_id
from .masking import mask_value
from .options import Settings
from .pagination import page_of, slice_of
from .refresh import Refresher, RefreshError
from .routes import GET_SECRET, GET_USER, IMPERSONATE, LIST_SECRETS, LIST_USERS, UNKNOWN, Route
from .secret import Secret, list_item
from .stats import Counters
from .user import User
from .world import World

__all__ = ["Endpoint", "Endpoints", "bearer_of"]

Endpoint = Callable[[web.BaseRequest, Route], Awaitable[Answer]]

_USERS_A_SLICE = 2000


class _Impersonation(msgspec.Struct):
    username: str = ""


_decode_impersonation = msgspec.json.Decoder(_Impersonation).decode


class Endpoints:
    """The services behind the gateway: identity (`/impersonate`, `/users`) and secrets."""

    def __init__(
        self,
        world: World,
        *,
        admin_token: str,
        refresher: Refresher,
        counters: Counters,
        settings: Callable[[], Settings],
    ) -> None:
        self._world = world
        self._admin_token = admin_token
        self._refresher = refresher
        self._counters = counters
        self._settings = settings
        self.by_template: dict[str, Endpoint] = {
            IMPERSONATE: self.impersonate,
            LIST_USERS: self.list_users,
            GET_USER: self.get_user,
            LIST_SECRETS: self.list_secrets,
            GET_SECRET: self.get_secret,
            UNKNOWN: self.unknown,
        }

    async def impersonate(self, request: web.BaseRequest, _route: Route) -> Answer:
        """`POST /impersonate` (§ Impersonation)."""
        refusal = self._refuse_others_than_admin(request)
        if refusal is not None:
            return refusal
        try:
            wanted = _decode_impersonation(await request.read())
        except msgspec.DecodeError:
            return error(400)
        user = self._world.impersonated(wanted.username)
        if user is None or not user.active:
            return error(404, answers.FORBIDDEN)
        self._counters.impersonations[user.username] += 1
        return json_answer(json_body(self._world.tokens.issue(user)))

    async def list_users(self, request: web.BaseRequest, route: Route) -> Answer:
        """`GET /users/`: everybody in one body (§ Users of the tenant)."""
        refusal = self._refuse_others_than_admin(request)
        if refusal is not None:
            return refusal
        asked = parse_qs(route.query, keep_blank_values=True)
        usernames = {name.lower() for name in asked.get("username", ()) if name}
        user_ids = {user_id for user_id in asked.get("userId", ()) if user_id}
        if not all(map(is_object_id, user_ids)):
            return error(500)
        body, total = await _joined(self._users(usernames, user_ids))
        if asked.get("meta") == ["true"]:
            body = b'{"data":' + body + b',"meta":' + json_body({"total": total}) + b"}"
        return json_answer(body)

    def _users(self, usernames: set[str], user_ids: set[str]) -> Iterable[User]:
        if not usernames and not user_ids:
            return self._world.users()
        if usernames:
            found = [self._world.user(name) for name in sorted(usernames)]
        else:
            found = [self._world.user_by_id(user_id) for user_id in sorted(user_ids)]
        return [user for user in found if user and (not user_ids or user.id in user_ids)]

    async def get_user(self, request: web.BaseRequest, route: Route) -> Answer:
        """`GET /users/{id}` (§ Users of the tenant)."""
        refusal = self._refuse_others_than_admin(request)
        if refusal is not None:
            return refusal
        if not is_object_id(route.object_id):
            return error(500)
        user = self._world.user_by_id(route.object_id)
        return answers.not_found_text() if user is None else json_answer(json_body(user))

    async def list_secrets(self, request: web.BaseRequest, route: Route) -> Answer:
        """`GET /secrets/`: one page, without credentials (§ Listing)."""
        reader = self._reader(request)
        if isinstance(reader, Answer):
            return reader
        self._counters.lists[reader.username] += 1
        page, meta = slice_of(self._world.estate_of(reader), page_of(route.query))
        body = json_body({"data": [list_item(secret) for secret in page], "meta": meta})
        return json_answer(body, cache_control=answers.PRIVATE)

    async def get_secret(self, request: web.BaseRequest, route: Route) -> Answer:
        """`GET /secrets/{id}`: refreshed if needed, masked unless raw (§ One secret)."""
        reader = self._reader(request)
        if isinstance(reader, Answer):
            return reader
        if not is_object_id(route.object_id):
            return error(401)
        secret = self._world.glance(route.object_id.lower())
        if secret is None:
            return error(404)
        if not _owns(reader, secret):
            return error(403)
        self._counters.secret_gets[secret.id] += 1
        return await self._shown(reader, secret)

    async def _shown(self, reader: User, secret: Secret) -> Answer:
        try:
            shown = await self._refresher.current(secret)
        except RefreshError as failure:
            return error(500, str(failure))
        if not (reader.reads_raw and self._settings().raw_read):
            shown["value"] = mask_value(secret.type, shown["value"])
        return json_answer(json_body({"data": shown}), cache_control=answers.PRIVATE)

    async def unknown(self, request: web.BaseRequest, route: Route) -> Answer:
        """Any other route (§ Errors)."""
        return answers.unknown_route(request.method, route.path)

    def _reader(self, request: web.BaseRequest) -> User | Answer:
        """Whose token this is, as the secret service sees it (§ Errors)."""
        token = bearer_of(request)
        if token is None:
            return error(401, answers.MISSING_AUTHORIZATION)
        user = self._account(token)
        return error(401, answers.TOKEN_NOT_FOUND) if user is None else user

    def _refuse_others_than_admin(self, request: web.BaseRequest) -> Answer | None:
        """Refuse as the identity service does: silently 401, or 403 for a mere user."""
        token = bearer_of(request)
        if token == self._admin_token:
            return None
        user = None if token is None else self._account(token)
        return error(401) if user is None else error(403, answers.FORBIDDEN)

    def _account(self, token: str) -> User | None:
        if token == self._admin_token:
            return self._world.administrator
        return self._world.tokens.use(token)


def bearer_of(request: web.BaseRequest) -> str | None:
    """Return the token that a request carries."""
    header = request.headers.get("Authorization")
    return None if header is None else header.removeprefix("Bearer ")


def _owns(reader: User, secret: Secret) -> bool:
    return any(owner.id in (reader.id, reader.tenant) for owner in secret.owners)


async def _joined(users: Iterable[User]) -> tuple[bytes, int]:
    """Encode users slice by slice, so that a big tenant does not stop every other answer."""
    rest, slices, total = iter(users), [], 0
    while some := list(islice(rest, _USERS_A_SLICE)):
        total += len(some)
        slices.append(json_body(some)[1:-1])
        await asyncio.sleep(0)
    return b"[" + b",".join(slices) + b"]", total
