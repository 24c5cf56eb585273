"""The twin answers each recorded request as the real services did.

The walk reads tests/contract/recorded.json: it builds the world that the recording shows, sends
each request in its order and compares. Nothing of the recording is repeated here but the names of
its cases.
"""

import asyncio
import json
import re
import time
from collections.abc import Iterator
from datetime import datetime
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from flowmate_async.sandbox import ProviderFault, Sandbox
from flowmate_async.sandbox.moments import instant_of

pytestmark = pytest.mark.anyio

RECORDED = Path(__file__).parent.parent / "contract" / "recorded.json"
CASES: list[dict[str, Any]] = json.loads(RECORDED.read_text(encoding="utf-8"))

STARTED = instant_of("2026-11-23T17:35:53.700Z")
ISO_MILLISECONDS = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
TOLERANCE_SECONDS = 60
TOKEN = re.compile(r"[A-Za-z0-9_-]{171}")
OBJECT_ID = re.compile(r"[0-9a-f]{24}")
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


def unstarred(value: Any) -> Any:
    """Put something readable where the recording has a mask; masked again it is the same."""
    return value.replace("*", "x") if isinstance(value, str) else value


def first_answers() -> dict[str, dict[str, Any]]:
    """Secret id -> what the first successful GET of it showed."""
    answers: dict[str, dict[str, Any]] = {}
    for case in CASES:
        if case["case"].startswith("get ") and case["status"] == 200:
            data = json.loads(case["body"])["data"]
            answers.setdefault(data["_id"], data)
    return answers


def sealed_of(answer: dict[str, Any]) -> dict[str, str]:
    return {name: unstarred(answer["value"][name]) for name in answer["encryptedFields"]}


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


def alike(recorded: Any, given: Any, where: str) -> None:
    """Equal in every key, type and value; moments may differ by a minute."""
    assert type(recorded) is type(given), (where, recorded, given)
    if isinstance(recorded, dict):
        assert set(recorded) == set(given), (where, set(recorded) ^ set(given))
        for name, field in recorded.items():
            alike(field, given[name], f"{where}.{name}")
    elif isinstance(recorded, list):
        assert len(recorded) == len(given), where
        for number, (left, right) in enumerate(zip(recorded, given, strict=True)):
            alike(left, right, f"{where}[{number}]")
    elif recorded != given:
        assert isinstance(recorded, str), (where, recorded, given)
        same_moment(recorded, given, where)


def same_moment(recorded: str, given: str, where: str) -> None:
    for text in (recorded, given):
        assert ISO_MILLISECONDS.fullmatch(text), (where, recorded, given)
    apart = datetime.fromisoformat(recorded) - datetime.fromisoformat(given)
    assert abs(apart.total_seconds()) < TOLERANCE_SECONDS, (where, recorded, given)


def headers_alike(recorded: dict[str, str], reply: Any, *, same_body: bool) -> None:
    assert reply.headers["content-type"] == recorded["content-type"]
    assert reply.headers.get("cache-control") == recorded.get("cache-control")
    assert reply.headers["keep-alive"] == "timeout=5"
    if "content-length" in recorded:
        assert int(reply.headers["content-length"]) == len(reply.body)
        assert ("etag" in reply.headers) == ("etag" in recorded)
    if "etag" in recorded:
        assert reply.headers["etag"].startswith(f'W/"{len(reply.body):x}-')
        assert not same_body or reply.headers["etag"] == recorded["etag"]


def bodies_alike(case: dict[str, Any], reply: Any) -> None:
    text = reply.body.decode()
    if case["status"] >= 400:
        assert text == case["body"]
    elif case["case"].startswith("impersonate user"):
        issued = json.loads(text)
        assert list(issued) == list(json.loads(case["body"]))
        assert TOKEN.fullmatch(issued["token"])
        assert OBJECT_ID.fullmatch(issued["id"])
    else:
        recorded, given = json.loads(case["body"]), json.loads(text)
        if case["case"].startswith("users "):
            recorded, given = in_shape(recorded), in_shape(given)
        alike(recorded, given, case["case"])


def in_shape(users: Any) -> Any:
    """Users of the twin have other names and moments: keep the shape, and whose role is whose."""
    if isinstance(users, dict):
        return {**users, "data": in_shape(users["data"])}
    return [
        {name: (type(field).__name__, name in user) for name, field in user.items()}
        | {"permissions": user["permissions"], "confirmed": user["confirmed"]}
        for user in users
    ]


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


@pytest.mark.observes("Recorded answers", "`tests/contract/recorded.json` holds", "They are test vectors")
async def test_every_recorded_request_gets_the_recorded_answer(running: Any, quick: Any) -> None:
    """docs/contract/OBSERVED.md § Recorded answers: "the twin must answer each case alike"."""
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
