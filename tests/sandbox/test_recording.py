"""The sandbox answers each request of the first recording as the real services did.

The walk reads tests/contract/recorded.json: it builds the world that the recording shows, sends each request
in its order and compares. Only the names of the cases are repeated here.
"""

import asyncio
import json
import re
import time
from collections.abc import Iterator
from itertools import count
from typing import Any

import pytest

from flowmate_async.sandbox import ProviderFault, Sandbox
from flowmate_async.sandbox.timestamps import instant_of

from .recorded_answers import (
    alike,
    headers_alike,
    impersonation_alike,
    in_shape,
    recording,
    sealed_of,
    unstarred,
)

pytestmark = pytest.mark.anyio

CASES = recording("recorded.json")

STARTED = instant_of("2026-11-23T17:35:53.700Z")
GROUP = "20 concurrent gets"

SPEAKERS = [
    # Pattern of the case's name, and whose token the request carries.
    (r"impersonate user[12]", "admin"),
    (r"impersonate without authorization", "nobody"),
    (r"impersonate with a user token", "user1@example.com"),
    (r"list page \d \((default size|last)\)|list page 2", "user1@example.com"),
    (r"list (past the end|size -?\d+)", "user1@example.com"),
    (r"list of the raw-reading user", "user2@example.com"),
    (r"get \w+ \([\w-]+\), masked, (first|second) read", "user1@example.com"),
    (r"get \w+ \([\w-]+\), raw, (first|second) read", "user2@example.com"),
    (r"get without authorization", "nobody"),
    (r"get with an unknown token", "stranger"),
    (r"get another user's secret", "user1@example.com"),
    (r"get (unknown|malformed) id|unknown route", "user2@example.com"),
    (r"users (without|with) meta", "admin"),
    (r"users with a user token", "user1@example.com"),
    (r"20 concurrent gets of a null-expiry session secret, 1 s login: #\d+", "user2@example.com"),
    (r"refresh fails upstream with 400, get #[12]", "user1@example.com"),
    (r"refresh answered 200 with an error body", "user1@example.com"),
    (r"the list afterwards \(currentError\)", "user1@example.com"),
]


def speaker_of(case: str) -> str:
    found = [who for pattern, who in SPEAKERS if re.fullmatch(pattern, case)]
    assert len(found) == 1, f"the walk does not know the recorded case {case!r}"
    return found[0]


def body_of(name: str) -> Any:
    return json.loads(next(case["body"] for case in CASES if case["case"] == name))


def first_answers() -> dict[str, dict[str, Any]]:
    """Secret id -> what the first successful GET of it showed."""
    answers: dict[str, dict[str, Any]] = {}
    for case in CASES:
        if case["case"].startswith("get ") and case["status"] == 200:
            data = json.loads(case["body"])["data"]
            answers.setdefault(data["_id"], data)
    return answers


def value_of(item: dict[str, Any], answer: dict[str, Any] | None) -> dict[str, Any]:
    """What was stored before the first GET: the list's fields, and the answer's credentials."""
    listed = item.get("value", {})
    by_type: dict[str, dict[str, Any]] = {
        "OA2_AUTHORIZATION_CODE": {"accessToken": "access-0", "refreshToken": "refresh-0"},
        "SESSION_AUTH": {"accessToken": "session-0", "inputFields": {"username": "u"}},
    }
    invented = by_type.get(item["type"], {})
    shown = {} if answer is None else answer["value"]
    value = {**invented, **{name: unstarred(field) for name, field in shown.items()}, **listed}
    if "expires" not in listed:
        value.pop("expires", None)
    if value.get("inputFields") == "xxx":
        value["inputFields"] = {"username": "u", "password": "p"}
    if value.get("refreshToken") == "":
        del value["refreshToken"]
    return value


def populate(sandbox: Sandbox) -> None:
    for user in body_of("users with meta")["data"]:
        if not user["roles"]:
            sandbox.world.add_user(
                user["username"],
                user_id=user["_id"],
                in_tenant="tenant" in user,
                permissions=tuple(user["permissions"]),
            )
    answers = first_answers()
    for username, listing in (
        ("user1@example.com", "list size 100"),
        ("user2@example.com", "list of the raw-reading user"),
    ):
        for item in body_of(listing)["data"]:
            add(sandbox, username, item, answers.get(item["_id"]))


def add(sandbox: Sandbox, username: str, item: dict[str, Any], answer: dict[str, Any] | None) -> None:
    sandbox.world.add_secret(
        username,
        type=item["type"],
        value=value_of(item, answer),
        secret_id=item["_id"],
        name=item["name"],
        sealed={} if answer is None else sealed_of(answer),
        domain=None if answer is None else answer.get("domain"),
    )


class Minting:
    """Names rotated tokens as the recorded provider did: one counter for everybody."""

    def __init__(self) -> None:
        self._numbers = count(1)
        self._number = 0
        self.sessions = {
            item["_id"]
            for name in ("list size 100", "list of the raw-reading user")
            for item in body_of(name)["data"]
            if item["type"] == "SESSION_AUTH"
        }

    def __call__(self, label: str, secret_id: str, _grant: int) -> str:
        if label == "refresh":
            return f"refresh-token-rotated-{self._number}-abcdefghijklmnop"
        self._number = next(self._numbers)
        kind = "session-token" if secret_id in self.sessions else "access-token-refreshed"
        return f"{kind}-{self._number}-abcdefghijklmnop"


def prepare(sandbox: Sandbox, case: dict[str, Any]) -> None:
    """Bring about what the recording shows and nobody can foresee: faults and ciphertexts."""
    secret = sandbox.world.secret(case["request"]["path"].rpartition("/")[2])
    if secret is None:
        return
    if case["case"].startswith("refresh fails upstream with 400"):
        secret.fault = ProviderFault.HTTP_ERROR
    elif case["case"] == "refresh answered 200 with an error body":
        secret.fault = ProviderFault.ERROR_BODY
    elif case["status"] == 200:
        secret.sealed.update(sealed_of(json.loads(case["body"])["data"]))


def bodies_alike(case: dict[str, Any], reply: Any) -> None:
    text = reply.body.decode()
    if case["status"] >= 400:
        assert text == case["body"]
    elif case["case"].startswith("impersonate user"):
        impersonation_alike(case["body"], text)
    else:
        recorded, given = json.loads(case["body"]), json.loads(text)
        if case["case"].startswith("users "):
            recorded, given = in_shape(recorded), in_shape(given)
        alike(recorded, given, case["case"])


def compare(case: dict[str, Any], reply: Any) -> None:
    assert reply.status == case["status"], (case["case"], reply)
    bodies_alike(case, reply)
    headers_alike(case["headers"], reply, same_body=reply.body.decode() == case["body"])


def in_order() -> Iterator[list[dict[str, Any]]]:
    """Yield one case at a time, and the concurrent ones together."""
    group = [case for case in CASES if case["case"].startswith(GROUP)]
    for case in CASES:
        if case not in group:
            yield [case]
        elif case is group[0]:
            yield group


async def compare_group(group: list[dict[str, Any]], sandbox: Sandbox, ask: Any) -> None:
    """How many win the race is chance; what winners and losers see is not."""
    sandbox.configure(provider_seconds=0.1)
    sandbox.reset_stats()
    replies = await asyncio.gather(*(ask(case) for case in group))
    won = [reply for reply in replies if reply.status == 200]
    lost = [reply for reply in replies if reply.status != 200]
    by_status = {case["status"]: case for case in group}
    assert 3 <= len(won) <= 9, "6 of 20 won when it was recorded"
    tokens = {reply.json()["data"]["value"]["accessToken"] for reply in won}
    assert len(tokens) == len(won) == sum(sandbox.stats().refreshes.values())
    for reply in lost:
        compare(by_status[500], reply)
    winner = json.loads(by_status[200]["body"])["data"]
    for reply in won:
        given = reply.json()["data"]
        assert given.keys() == winner.keys()
        changing = {"__v": given["__v"], "value": given["value"]}
        alike(winner | changing, given, by_status[200]["case"])
        assert given["value"] | {"accessToken": ""} == winner["value"] | {"accessToken": ""}
        headers_alike(by_status[200]["headers"], reply, same_body=False)
    sandbox.configure(provider_seconds=0)


@pytest.mark.observes("Recorded answers", "`tests/contract/recorded.json` holds")
async def test_every_recorded_request_gets_the_recorded_answer(running: Any, quick: Any) -> None:
    """docs/contract/OBSERVED.md § Recorded answers: "the sandbox must answer each case alike"."""
    assert STARTED is not None
    began = time.monotonic()
    options = {
        "empty_world": True,
        "now": lambda: STARTED + time.monotonic() - began,
        "mint_token": Minting(),
        **quick,
    }
    walked = 0
    async with running(**options) as (sandbox, call):
        populate(sandbox)
        tokens: dict[str, str | None] = {
            "admin": sandbox.admin_token,
            "nobody": None,
            "stranger": "no-such-token",
            "user1@example.com": await call.impersonate("user1@example.com"),
            "user2@example.com": await call.impersonate("user2@example.com"),
        }

        async def ask(case: dict[str, Any]) -> Any:
            request = case["request"]
            # The recording left the filter out; its one user says whom it asked for.
            path = request["path"].replace("…", "user1@example.com")
            token = tokens[speaker_of(case["case"])]
            return await call.send(request["method"], path, token, json=request["json"])

        for cases in in_order():
            walked += len(cases)
            if len(cases) > 1:
                await compare_group(cases, sandbox, ask)
                continue
            prepare(sandbox, cases[0])
            compare(cases[0], await ask(cases[0]))
    assert walked == len(CASES) == 74


@pytest.mark.parametrize("case", ["list page 4", "get SIMPLE (simple-0)", ""])
def test_a_recorded_case_that_the_walk_does_not_know_fails_it(case: str) -> None:
    """No recorded answer may be passed over in silence."""
    with pytest.raises(AssertionError, match="does not know"):
        speaker_of(case)
