"""Endpoints: one method for each route of the contract, from a request to its answer.

The checks follow the services' order. Endpoints do not know about latency, limits or connections.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from itertools import islice
from urllib.parse import parse_qs

import msgspec
from aiohttp import web

from flowmate_async.sandbox import answers
from flowmate_async.sandbox.accounts import BORN
from flowmate_async.sandbox.answers import Answer, error, json_answer, json_body
from flowmate_async.sandbox.ids import object_id_of
from flowmate_async.sandbox.masking import mask_value
from flowmate_async.sandbox.options import Settings
from flowmate_async.sandbox.pagination import NegativeSkipError, page_of, slice_of
from flowmate_async.sandbox.preliminaries import carried_token, preliminary_answer, token_or_refusal
from flowmate_async.sandbox.refresh import Refresher, RefreshError
from flowmate_async.sandbox.routes import (
    GET_SECRET,
    GET_USER,
    IMPERSONATE,
    LIST_SECRETS,
    LIST_USERS,
    UNKNOWN,
    Route,
)
from flowmate_async.sandbox.secret import Secret, list_item
from flowmate_async.sandbox.stats import Counters
from flowmate_async.sandbox.user import User
from flowmate_async.sandbox.world import World

_Endpoint = Callable[[web.BaseRequest, Route], Awaitable[Answer]]

_USERS_A_SLICE = 2000
_UNCHANGEABLE = "The sandbox changes secrets on its own routes only: see PATCH /_sandbox/secrets/{id}."
_ADMIN_ROLE = {
    "name": "ADMIN",
    "type": "TENANT",
    "isGlobal": True,
    "permissions": ["all"],
    "_id": "",
    "__v": 0,
    "createdAt": BORN,
    "updatedAt": BORN,
}


class _Impersonation(msgspec.Struct):
    username: str = ""


_decode_impersonation = msgspec.json.Decoder(_Impersonation).decode


class Endpoints:
    """The services behind the gateway: identity (``/impersonate``, ``/users``) and secrets."""

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
        self._by_template: dict[str, _Endpoint] = {
            IMPERSONATE: self._impersonate,
            LIST_USERS: self._list_users,
            GET_USER: self._get_user,
            LIST_SECRETS: self._list_secrets,
            GET_SECRET: self._get_secret,
            UNKNOWN: self._unknown,
        }

    async def answer(self, request: web.BaseRequest, route: Route) -> Answer:
        """Answer one request."""
        refusal = await preliminary_answer(request, route)
        if refusal is not None:
            return refusal
        return await self._by_template[route.template](request, route)

    async def _impersonate(self, request: web.BaseRequest, _route: Route) -> Answer:
        """``POST /impersonate`` (§ Impersonation)."""
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

    async def _list_users(self, request: web.BaseRequest, route: Route) -> Answer:
        """``GET /users/``: all users in one body (§ Users of the tenant)."""
        refusal = self._refuse_others_than_admin(request)
        if refusal is not None:
            return refusal
        asked = parse_qs(route.query, keep_blank_values=True)
        if any(name.startswith(("username[", "userId[")) for name in asked):
            return error(500, answers.UNKNOWN_ERROR)
        usernames = {name for name in asked.get("username", ()) if name}
        user_ids = [object_id_of(user_id) for user_id in asked.get("userId", ()) if user_id]
        if None in user_ids:
            return error(500, answers.INVALID_FILTER)
        body, total = await _joined(self._users(usernames, {user_id for user_id in user_ids if user_id}))
        if "meta" in asked:
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

    async def _get_user(self, request: web.BaseRequest, route: Route) -> Answer:
        """``GET /users/{id}`` (§ Users of the tenant), and ``GET /users/me`` (§ Second look)."""
        if route.object_id == "me":
            return self._get_caller(request)
        refusal = self._refuse_others_than_admin(request)
        if refusal is not None:
            return refusal
        if route.object_id is None:
            return answers.broken_escape(route.parameter)
        user_id = object_id_of(route.object_id)
        if user_id is None:
            return error(500)
        user = self._world.user_by_id(user_id)
        return answers.not_found_text() if user is None else json_answer(json_body(user))

    def _get_caller(self, request: web.BaseRequest) -> Answer:
        caller = self._iam_caller(request)
        if isinstance(caller, Answer):
            return caller
        roles = [{**_ADMIN_ROLE, "_id": role} for role in caller.roles]
        return json_answer(json_body({**msgspec.to_builtins(caller), "roles": roles}))

    async def _list_secrets(self, request: web.BaseRequest, route: Route) -> Answer:
        """``GET /secrets/``: one page, without credentials (§ Listing)."""
        reader = self._reader(request)
        if isinstance(reader, Answer):
            return reader
        self._counters.lists[reader.username] += 1
        try:
            page, meta = slice_of(self._world.live_secrets_of(reader), page_of(route.query))
        except NegativeSkipError as refused:
            return error(500, str(refused), cache_control=answers.PRIVATE)
        body = json_body({"data": [list_item(secret) for secret in page], "meta": meta})
        return json_answer(body, cache_control=answers.PRIVATE)

    async def _get_secret(self, request: web.BaseRequest, route: Route) -> Answer:
        """``GET /secrets/{id}``: refreshed if needed, masked unless raw (§ One secret)."""
        reader = self._reader(request)
        if isinstance(reader, Answer):
            return reader
        secret = self._owned(reader, route)
        if isinstance(secret, Answer):
            return secret
        self._counters.secret_gets[secret.id] += 1
        return await self._shown(reader, secret)

    def _owned(self, reader: User, route: Route) -> Secret | Answer:
        """Return the secret in a path, or why this reader does not get it (§ Errors)."""
        if route.object_id is None:
            return answers.broken_escape(route.parameter)
        secret_id = object_id_of(route.object_id)
        if secret_id is None:
            return error(401)
        secret = self._world.glance(secret_id)
        if secret is None:
            return error(404)
        return secret if _owns(reader, secret) else error(403)

    async def _shown(self, reader: User, secret: Secret) -> Answer:
        try:
            shown = await self._refresher.current(secret)
        except RefreshError as failure:
            return error(500, str(failure))
        if not (reader.reads_raw and self._settings().raw_read):
            shown["value"] = mask_value(secret.type, shown["value"])
        return json_answer(json_body({"data": shown}), cache_control=answers.PRIVATE)

    async def _unknown(self, request: web.BaseRequest, route: Route) -> Answer:
        """Any other route (§ Errors), and changes of a secret."""
        if request.method in ("DELETE", "PATCH") and route.object_id != "":
            return self._change_secret(request, route)
        return answers.unknown_route(request.method, route.path)

    def _change_secret(self, request: web.BaseRequest, route: Route) -> Answer:
        """``DELETE``, ``PATCH /secrets/{id}``: only refusals were observed (§ Second look, "Requests")."""
        reader = self._reader(request)
        secret = reader if isinstance(reader, Answer) else self._owned(reader, route)
        return secret if isinstance(secret, Answer) else error(501, _UNCHANGEABLE)

    def _reader(self, request: web.BaseRequest) -> User | Answer:
        """Return whose token this is, as the secret service sees it (§ Errors)."""
        token = token_or_refusal(request.headers.get("Authorization"))
        if isinstance(token, Answer):
            return token
        return self._account(token) or error(401, answers.TOKEN_NOT_FOUND)

    def _iam_caller(self, request: web.BaseRequest) -> User | Answer:
        """Return whose token this is, as the identity service sees it; without one, the 401 has no text."""
        header = request.headers.get("Authorization")
        if not header:
            return error(401)
        token = carried_token(header)
        if token is None:
            return error(401, answers.INVALID_AUTHORIZATION)
        return self._account(token) or error(401, answers.UNKNOWN_TOKEN)

    def _refuse_others_than_admin(self, request: web.BaseRequest) -> Answer | None:
        caller = self._iam_caller(request)
        if isinstance(caller, Answer):
            return caller
        is_admin = carried_token(request.headers.get("Authorization")) == self._admin_token
        return None if is_admin else error(403, answers.FORBIDDEN)

    def _account(self, token: str) -> User | None:
        if token == self._admin_token:
            return self._world.administrator
        return self._world.tokens.use(token)


def _owns(reader: User, secret: Secret) -> bool:
    return any(owner.id in (reader.id, reader.tenant) for owner in secret.owners)


async def _joined(users: Iterable[User]) -> tuple[bytes, int]:
    """Encode users slice by slice, so that a large tenant does not block other answers."""
    rest, slices, total = iter(users), [], 0
    while some := list(islice(rest, _USERS_A_SLICE)):
        total += len(some)
        slices.append(json_body(some)[1:-1])
        await asyncio.sleep(0)
    return b"[" + b",".join(slices) + b"]", total
