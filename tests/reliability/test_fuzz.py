"""Hostile answers, through the client's public face: a value, or a ``FlowMateError`` that shows nothing.

The bodies are the recorded ones with every credential replaced by a planted one, then cut, spliced, nested,
given odd numbers, duplicate keys and invalid UTF-8; and invented bodies. Single decoders
have fuzz tests of their own beside them, in ``tests/values`` and ``tests/contract``.
"""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flowmate_async import FlowMate, FlowMateError, Response, RetryPolicy, UserFailed, UserSynced
from flowmate_async.contract import protocol
from flowmate_async.contract.answers import read_secret
from flowmate_async.contract.failures import Failure, examine, retry_after_seconds
from flowmate_async.contract.masks import masked_fields
from flowmate_async.testing.memory_transport import MemoryTransport, json_response
from flowmate_async.values.dates import parse_date, parse_http_date

RECORDED = json.loads((Path(__file__).parents[1] / "contract" / "recorded.json").read_text(encoding="utf-8"))
SECRET = "66761aedcf268b4d68470e27"
PLANTED = "5ecr3t"
CREDENTIAL = f"{PLANTED}-{'0123456789abcdef' * 2}"
_CREDENTIALS = {"accessToken", "refreshToken", "key", "passphrase", "payload", "token", "inputFields"}


def plant(body: Any) -> Any:
    """A recorded body with its credentials replaced, and the id that is asked for."""
    if isinstance(body, list):
        return [plant(part) for part in body]
    if not isinstance(body, dict):
        return body
    planted = {name: CREDENTIAL if name in _CREDENTIALS else plant(part) for name, part in body.items()}
    return planted | ({"_id": SECRET} if "_id" in planted else {})


def planted_bodies(path_begins: str, method: str = "GET") -> list[bytes]:
    bodies = []
    for case in RECORDED:
        request = case["request"]
        if request["method"] == method and request["path"].startswith(path_begins):
            try:
                bodies.append(json.dumps(plant(json.loads(case["body"]))).encode())
            except ValueError:
                bodies.append(case["body"].encode())
    assert bodies
    return sorted(set(bodies))


_ODD = st.sampled_from(
    [
        b"NaN", b"Infinity", b"-Infinity", b"1e999", b"-1e-999", b"1" * 400, b"0.1e" + b"9" * 30, b"-0",
        b'"\\ud800"', b'"\\udc00\\ud800"', b'"\\u0000"', b'"\xff\xfe"', b'"\xed\xa0\x80"', b"null", b"true",
        b"[]", b"{}", b'""', b"[" * 2000, b"[" * 2000 + b"]" * 2000, b'{"a":' * 2000 + b"1" + b"}" * 2000,
        b"01", b"\xef\xbb\xbf", b"\x00", b"//", b"'a'", b"2" * 25, b'{"_id":"a","_id":"b"}', b"-", b'"',
    ]
)  # fmt: skip
"""Numbers beyond every range, lone surrogates, invalid UTF-8, deep nesting, duplicate keys."""


@st.composite
def mangled(draw: Any, body: bytes) -> bytes:
    """A body after one to four accidents."""
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(body)))
        end = draw(st.integers(start, min(len(body), start + 40)))
        match draw(st.sampled_from(["cut", "drop", "splice", "repeat", "odd value", "double a key", "nest"])):
            case "cut":
                body = body[:start]
            case "drop":
                body = body[:start] + body[end:]
            case "splice":
                body = body[:start] + draw(st.binary(max_size=8)) + body[start:]
            case "repeat":
                body = body[:end] + body[start:]
            case "odd value":
                body = _with_odd_value(body, draw(st.integers(0, 40)), draw(_ODD))
            case "double a key":
                body = body.replace(b'"value"', b'"value": ' + draw(_ODD) + b', "value"', 1)
            case _:
                body = b'{"data":' + body + b"}"
    return body


def _with_odd_value(body: bytes, number: int, odd: bytes) -> bytes:
    """The number-th value of an object, replaced."""
    places = [place for place in range(len(body)) if body.startswith(b'": ', place)]
    if not places:
        return odd
    begin = places[number % len(places)] + 3
    ends = [place for place in (body.find(mark, begin) for mark in (b",", b"}", b"]")) if place >= 0]
    return body[:begin] + odd + body[min(ends, default=len(body)) :]


_headers = st.fixed_dictionaries(
    {
        "content-type": st.sampled_from(
            ["application/json"] * 6 + ["text/html", "application/x+json", "", "\xff"]
        )
    },
    optional={
        "retry-after": st.sampled_from(["0", "9" * 40, "-1", "Fri, 31 Dec 9999 23:59:59 GMT", "soon", "\x00"])
        | st.text(max_size=20),
        "date": st.text(max_size=20) | st.just("Tue, 24 Nov 2026 19:00:00 GMT"),
    },
)
_status = st.sampled_from(
    [200] * 8 + [201, 204, 301, 400, 401, 401, 403, 404, 418, 429, 500, 500, 502, 503, 504, 599]
)


_made_up = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**30), 10**30) | st.floats() | st.just(CREDENTIAL),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "data",
                    "meta",
                    "total",
                    "page",
                    "value",
                    "expires",
                    "owners",
                    "type",
                    "_id",
                    "message",
                    "token",
                    "id",
                    "username",
                    "status",
                    "currentError",
                    "accessToken",
                    "key",
                    "roles",
                ]
            ),
            inner | st.sampled_from(["SIMPLE", "API_KEY", "OA2_AUTHORIZATION_CODE", "SESSION_AUTH", SECRET]),
            max_size=6,
        )
    ),
    max_leaves=20,
)
"""JSON of the contract's words in any order."""


def answers(bodies: list[bytes]) -> st.SearchStrategy[Response]:
    """Whole answers whose body is a mangled one of these, or junk."""
    body = st.sampled_from(bodies).flatmap(mangled) | st.binary(max_size=60) | _ODD
    return st.builds(Response, _status, _headers, body)


class Shown:
    """What a reader could see of one call: its error with the locals of every frame, its events."""

    def __init__(self, exposed: Callable[[BaseException], str]) -> None:
        self._exposed = exposed
        self.text = ""

    def event(self, event: object) -> None:
        self.text += repr(event)

    def error(self, error: BaseException) -> None:
        self.text += f"{error}{error!r}{self._exposed(error)}"


async def call_with(answer: Response, call: Callable[[FlowMate], Any], shown: Shown, *, at: str) -> None:
    """One call of a client whose upstream gives this answer at one endpoint, each time."""

    async def upstream(method: str, path: str, _headers: Any, _body: Any) -> Response:
        endpoint = "POST" if method == "POST" else path.partition("?")[0]
        if endpoint.startswith(at):
            return answer
        if method == "POST":
            return json_response(b'{"token":"t","id":"i"}')
        item = f'{{"_id":"{SECRET}","type":"SESSION_AUTH"}}'
        return json_response(f'{{"data":[{item}],"meta":{{"total":1}}}}'.encode())

    async with FlowMate(
        admin_token="a",
        base_url="http://localhost",
        transport=MemoryTransport(upstream),
        rate=None,
        retry=RetryPolicy(attempts=2),
        on_event=shown.event,
    ) as fm:
        try:
            result = await call(fm)
        except FlowMateError as error:
            shown.error(error)
        else:
            shown.text += repr(result)


async def _everybody(fm: FlowMate) -> list[Any]:
    return [user async for user in fm.users()]


async def _swept(fm: FlowMate) -> list[Any]:
    outcomes = [outcome async for outcome in fm.sweep(["u"])]
    assert [type(outcome) in (UserSynced, UserFailed) for outcome in outcomes] == [True]
    return outcomes


CALLS: dict[str, tuple[Callable[[FlowMate], Any], str, list[bytes]]] = {
    "get_secret": (lambda fm: fm.get_secret("u", SECRET), f"/secrets/{SECRET}", planted_bodies("/secrets/6")),
    "credential": (lambda fm: fm.credential("u", SECRET), f"/secrets/{SECRET}", planted_bodies("/secrets/6")),
    "list_secrets": (lambda fm: fm.list_secrets("u"), "/secrets/", planted_bodies("/secrets/")),
    "sweep, its secrets": (_swept, f"/secrets/{SECRET}", planted_bodies("/secrets/6")),
    "sweep, its listing": (_swept, "/secrets/", planted_bodies("/secrets/")),
    "users": (_everybody, "/users/", planted_bodies("/users")),
    "impersonate": (
        lambda fm: fm.impersonate("u"),
        "POST",
        [f'{{"token": "{CREDENTIAL}", "id": "i"}}'.encode()],
    ),
}


@pytest.mark.parametrize("name", CALLS)
@settings(suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_any_answer_gives_a_value_or_an_error_that_shows_nothing(
    name: str, virtually: Any, exposed: Any, data: Any
) -> None:
    call, at, bodies = CALLS[name]
    answer, shown = data.draw(answers(bodies)), Shown(exposed)
    virtually(lambda: call_with(answer, call, shown, at=at))
    assert PLANTED not in shown.text


@pytest.mark.parametrize("name", CALLS)
@given(body=_made_up, status=_status)
def test_whatever_json_upstream_makes_up_a_call_gives_a_value_or_an_error(
    name: str, virtually: Any, exposed: Any, body: Any, status: int
) -> None:
    """Ids, types and usernames are for showing, wherever they come from; a credential is not."""
    call, at, _ = CALLS[name]
    shown = Shown(exposed)
    answer = Response(status, {"content-type": "application/json"}, json.dumps(body).encode())
    virtually(lambda: call_with(answer, call, shown, at=at))


class TestTheGoodAnswersTheBadOnesAreMadeOf:
    """Were they refused as they are, mangling them would prove nothing."""

    @pytest.mark.parametrize("body", CALLS["get_secret"][2], ids=len)
    def test_a_secret_is_read_and_holds_what_was_planted(self, body: bytes) -> None:
        if b'"data"' not in body:
            return
        secret = read_secret(
            Response(200, {"content-type": "application/json"}, body),
            protocol.get_secret(SECRET),
            keep_refresh_fields=True,
        )
        assert secret.id == SECRET
        assert masked_fields(secret) == ()
        assert PLANTED not in repr(secret)

    def test_most_of_them_hold_a_credential(self) -> None:
        holding = [body for body in CALLS["get_secret"][2] if CREDENTIAL.encode() in body]
        assert len(holding) >= 8


REQUESTS = [
    protocol.impersonate("u"),
    protocol.users(),
    protocol.list_secrets(number=1, size=1),
    protocol.get_secret(SECRET),
    protocol.get_secret(SECRET, may_refresh=False),
]


@given(
    request=st.sampled_from(REQUESTS),
    status=st.integers(100, 599),
    body=st.binary(max_size=80)
    | st.text(max_size=60).map(lambda text: json.dumps({"message": text}).encode())
    | _ODD.map(lambda odd: b'{"message":' + odd + b"}"),
    headers=_headers,
)
def test_every_error_body_is_a_failure_with_a_wait_that_is_finite(
    request: Any, status: int, body: bytes, headers: dict[str, str]
) -> None:
    failure = examine(request, Response(status, headers, body), now=1.8e9)
    if status == 200:
        assert failure is None
    if failure is not None:
        assert isinstance(failure, Failure)
        assert isinstance(failure.error, FlowMateError)
        assert "\n" not in str(failure.error)
        assert len(str(failure.error)) < 1000
        assert 0 <= (failure.retry_after_seconds or 0.0) < float("inf")


@given(
    token=st.text("0123456789abcdefABCDEF-_", min_size=25, max_size=60),
    status=st.sampled_from([400, 401, 403, 404, 429, 500, 502, 503]),
    request=st.sampled_from(REQUESTS),
    before=st.text(max_size=20),
)
def test_a_token_in_an_error_body_is_not_in_the_error(
    token: str, status: int, request: Any, before: str
) -> None:
    body = json.dumps({"message": f"{before} {token} was rejected"}).encode()
    failure = examine(request, Response(status, {"content-type": "application/json"}, body), now=1.8e9)
    assert failure is not None
    assert token not in str(failure.error)


@given(
    st.text()
    | st.from_regex(r"\A[A-Z][a-z]{2}, \d{1,2} [A-Z][a-z]{2} \d{1,6} \d\d:\d\d:\d\d [A-Z+-]{1,5}\d{0,4}\Z")
)
def test_every_http_date_is_a_finite_moment_or_none(raw: str) -> None:
    moment = parse_http_date(raw)
    assert moment is None or abs(moment) < 1e12
    wait = retry_after_seconds({"retry-after": raw}, now=1.8e9)
    assert wait is None or 0 <= wait < 1e12


@given(
    st.from_regex(r"\A[+-]?\d{1,6}-\d{1,2}-\d{1,2}([T ]\d\d:\d\d(:\d\d(\.\d{1,9})?)?)?(Z|[+-]\d\d:?\d\d)?\Z")
)
def test_every_date_like_text_is_an_aware_moment_or_none(raw: str) -> None:
    moment = parse_date(raw)
    assert moment is None or datetime.min.replace(tzinfo=UTC) <= moment <= datetime.max.replace(tzinfo=UTC)
