"""Every request and every error in full: the text, the advice, what it is about, and what may help.

``exact.json`` has them as they are meant to be. A message that changes on purpose changes there as well:
``python tests/contract/test_exact.py`` writes the file anew; read the difference before committing it.
"""

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from flowmate_async import FlowMateError, ProtocolError, Response, TransportError
from flowmate_async.contract import answers, ids, protocol
from flowmate_async.contract.failures import examine, examine_broken, without_tokens
from flowmate_async.contract.masks import shows_masking
from flowmate_async.redaction import Headers

FILE = Path(__file__).with_name("exact.json")
NOW = 1_800_000_000.0
SECRET = "66761aedcf268b4d68470e27"
JSON = {"content-type": "application/json"}
MAKE = {
    "impersonate": partial(protocol.impersonate, "ann"),
    "users": protocol.users,
    "list": partial(protocol.list_secrets, number=2, size=30, username="ann"),
    "refreshing get": partial(protocol.get_secret, SECRET, username="ann", auth_client_id="client"),
    "plain get": partial(protocol.get_secret, SECRET, username="ann", may_refresh=False),
    "get of a malformed id": partial(protocol.get_secret, "a-malformed-id"),
}
BAD = {
    **{str(status): (status, "") for status in (201, 204, 301, 302, 399, 400, 405, 409, 418, 429)},
    **{str(status): (status, "") for status in (500, 501, 502, 503, 504, 505, 520)},
    **{f"{status} with a message": (status, "said") for status in (400, 401, 403, 404, 429, 500, 501, 503)},
    "401 of IAM": (401, "Authorization failed"),
    "401 without a header": (401, "Missing authorization header"),
    "401 with another header": (401, "Invalid authorization header"),
    "401 for the token": (401, "Token not found in IAM"),
    "500 for the lock": (500, "Max secret refresh retry reached"),
}
PAGES = {
    "404 as a page": (404, "text/html; charset=utf-8", b"<html>"),
    "404 for a route": (404, "text/html", b"<pre>Cannot GET /x</pre>"),
    "401 without a body": (401, "", b""),
    "500 as a page": (500, "text/plain", b"oops"),
    "403 of no type": (403, "such/a-type/as-none", b"x"),
}
BROKEN = ("timeout", "tls", "too_large", "malformed", "connect", "interrupted", "stale")

ITEM = {"_id": SECRET, "type": "API_KEY", "value": {"key": "a-good-key"}}
OAUTH = {"_id": SECRET, "type": "OA2_AUTHORIZATION_CODE", "value": {"accessToken": ""}}


def read_secret(response: Response) -> Any:
    return answers.read_secret(response, protocol.get_secret(SECRET))


def dense(parts: int, size: int) -> bytes:
    """A list of that many bytes with so many empty objects."""
    return (b'{"data":[' + b",".join([b"{}"] * parts)).ljust(size - 2) + b"]}"


UNREADABLE = {
    "token that no header can carry": (answers.read_user_token, {"token": "two words"}),
    "users, too many": (lambda raw: answers.read_users(raw, max_users=1), [{"username": "a"}] * 2),
    "users, another total": (
        answers.read_users,
        {"data": [{"_id": "1", "username": "a"}], "meta": {"total": 2}},
    ),
    "page, an odd total": (answers.read_page, {"data": [], "meta": {"total": "many"}}),
    "page, too dense": (answers.read_page, dense(5000, 65536)),
    "secret, another one": (read_secret, {"data": ITEM | {"_id": "f" * 24}}),
    "secret, masked": (read_secret, {"data": ITEM | {"value": {"key": "*******abcd"}}}),
    "secret, without a credential": (read_secret, {"data": ITEM | {"value": {"key": " "}}}),
    "secret, no token": (read_secret, {"data": OAUTH}),
}
REFUSED = {
    "a username that is no text": (ids.checked_username, 5),
    "an empty username": (ids.checked_username, " "),
    "a padded username": (ids.checked_username, "ann "),
    "an invisible character": (ids.checked_username, "ann\ufeff"),
    "a long username": (ids.checked_username, "a b" * 342),
    "an id with a slash": (ids.checked_id, "a/b"),
    "a long id": (ids.checked_id, "a" * 129),
    "an id that is no text": (ids.checked_id, 5),
    "page 0": (lambda number: protocol.list_secrets(number=number, size=1), 0),
    "size 2^31": (lambda size: protocol.list_secrets(number=1, size=size), 2**31),
}


def of_error(error: FlowMateError) -> dict[str, Any]:
    """Everything that an error tells; the text ends with the advice."""
    assert str(error).endswith(error.advice)
    fields = ("endpoint", "username", "secret_id", "status")
    told = {name: getattr(error, name) for name in fields if getattr(error, name)}
    return {"error": type(error).__name__, "text": str(error), "has_advice": bool(error.advice), **told}


def of_failure(failure: Any) -> dict[str, Any] | None:
    """Everything that a failure tells."""
    if failure is None:
        return None
    told = {name: True for name in ("throttled", "locked", "sick") if getattr(failure, name)}
    return of_error(failure.error) | {"remedy": failure.remedy.name} | told


def answered(status: int, content_type: str, body: bytes, **headers: str) -> Response:
    return Response(status, ({"content-type": content_type} if content_type else {}) | headers, body)


def raised(call: Any, argument: Any) -> dict[str, Any]:
    with pytest.raises(FlowMateError) as caught:
        call(argument)
    return of_error(caught.value)


def of_request(name: str) -> dict[str, Any]:
    """A request, and every way in which it fails."""
    request = MAKE[name]()
    asked = {key: value for key, value in structs.asdict(request).items() if value is not None}
    told: dict[str, Any] = {"request": asked | ({"body": request.body.decode()} if request.body else {})}
    for case, (status, message) in BAD.items():
        response = answered(status, "application/json", json.dumps({"message": message}).encode())
        told[case] = of_failure(examine(request, response, now=NOW))
    for case, (status, content_type, body) in PAGES.items():
        told[case] = of_failure(examine(request, answered(status, content_type, body), now=NOW))
    for failure in BROKEN:
        for detail in ("", "why"):
            broken = examine_broken(request, TransportError(failure, detail))
            told[f"{failure}{detail and ', with a reason'}"] = of_failure(broken)
    return told


def of_unreadable() -> dict[str, Any]:
    """Good answers that cannot be used."""
    told = {}
    for case, (read, body) in UNREADABLE.items():
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        told[case] = raised(read, Response(200, JSON, raw))
    page = Response(200, {"content-type": "text/html"}, b"<html>")
    for read in (answers.read_user_token, answers.read_users, answers.read_page, read_secret):
        told[f"a page for {read.__name__}"] = raised(read, page)
    return told


def of_refused() -> dict[str, Any]:
    """Requests that are not made."""
    return {case: raised(call, argument) for case, (call, argument) in REFUSED.items()}


FOUND = {name: partial(of_request, name) for name in MAKE}
FOUND |= {"unreadable": of_unreadable, "refused": of_refused}


@pytest.mark.parametrize("of", FOUND)
def test_it_is_exactly_what_it_is_meant_to_be(of: str) -> None:
    assert FOUND[of]() == json.loads(FILE.read_text(encoding="utf-8"))[of]


def test_a_throttled_answer_waits_until_the_date_that_it_names() -> None:
    date = "Fri, 15 Jan 2027 08:00:07 GMT"
    failure = examine(
        protocol.users(), answered(429, "application/json", b"{}", **{"retry-after": date}), now=NOW
    )
    assert failure is not None
    assert failure.retry_after_seconds == 7.0


def test_a_list_is_too_dense_from_a_size_on() -> None:
    """Below 64 KiB anything is read; above, parts may not be smaller than 24 and 10 bytes on average."""
    assert answers.read_users(Response(200, JSON, b"[" + b" " * 70_000 + b"]")) == []
    small = b'{"data":[' + b",".join([b'{"username":"a"}'] * 100) + b"]}"
    assert len(answers.read_users(Response(200, JSON, small))) == 100


def test_whole_numbers_are_read_as_totals_and_nothing_else_is() -> None:
    for total, known in ((2, 2), ("2", 2), (2.0, 2), (None, None), ("9" * 18, int("9" * 18))):
        page = answers.read_page(
            Response(200, JSON, json.dumps({"data": [], "meta": {"total": total}}).encode())
        )
        assert page.total == known
    for total in (True, 2.5, "2 ", "-1", "1" * 19, []):
        raw = json.dumps({"data": [], "meta": {"total": total}}).encode()
        with pytest.raises(ProtocolError, match="the total is not a number of items"):
            answers.read_page(Response(200, JSON, raw))


def test_a_page_says_when_it_was_served() -> None:
    raw = b'{"data":[],"meta":{"total":0}}'
    served = answers.read_page(Response(200, JSON | {"date": "Fri, 15 Jan 2027 08:00:07 GMT"}, raw))
    assert served.served_at == NOW + 7
    assert answers.read_page(Response(200, JSON, raw)).served_at is None


def test_a_tokens_id_may_be_missing_or_a_number() -> None:
    for fields, known in (({}, ""), ({"id": 5}, "5"), ({"id": None}, ""), ({"id": "x"}, "x")):
        raw = json.dumps({"token": "t", **fields}).encode()
        assert answers.read_user_token(Response(200, JSON, raw)).id == known


def test_the_largest_of_everything_is_allowed() -> None:
    assert protocol.list_secrets(number=2**31 - 1, size=1).path.endswith("=2147483647")
    assert ids.checked_username("é" * 1024) == "é" * 1024
    assert ids.checked_id("a" * 128) == "a" * 128
    assert len(answers.read_users(Response(200, JSON, b'[{"username":"a"}]'), max_users=1)) == 1


def test_spellings_of_names_and_ids() -> None:
    mixed = "66761AEDCF268b4d68470e27"
    assert ids.secret_key(mixed) == SECRET
    assert ids.secret_key("TwelveChars_") == "TwelveChars_"
    assert ids.secret_key(None) is None  # type: ignore[arg-type]
    assert ids.user_key("Ann") == "ann"
    assert ids.user_key(5) == 5  # type: ignore[arg-type]
    assert ids.canonical_key("Ann", mixed) == ids.canonical_key("ANN", SECRET) == ("ann", SECRET)
    assert ids.canonical_key(5, SECRET) == (5, SECRET)  # type: ignore[arg-type]
    assert (ids.is_username("ann"), ids.is_username(" ann"), ids.is_username("\ud800")) == (
        True,
        False,
        False,
    )


def test_tokens_are_removed_from_the_message_of_a_bad_answer() -> None:
    """Of whatever was sent, as it was sent; an answer without one stays the same object."""
    sent = Headers((("Authorization", "Bearer 0-a-token-without-a-form"),)), None
    said = answered(401, "application/json", b'{"message":"0-a-token-without-a-form is unknown"}')
    hidden = without_tokens(said, *sent)
    assert b"0-a-token" not in hidden.body
    assert json.loads(hidden.body)["message"].endswith(" is unknown")
    assert (hidden.status, hidden.headers) == (said.status, said.headers)
    for body in (b'{"message":"is unknown"}', b'{"message":""}', b"0-a-token-without-a-form"):
        other = answered(401, "application/json", body)
        assert without_tokens(other, *sent) is other


def test_which_types_show_masking() -> None:
    types = ("SIMPLE", "API_KEY", "OA2_AUTHORIZATION_CODE", "MIXED", "SESSION_AUTH", "OA1_TWO_LEGGED", "NEW")
    assert [kind for kind in types if shows_masking(kind)] == list(types[:4])


if __name__ == "__main__":
    lines = {of: json.dumps(tell(), ensure_ascii=False, sort_keys=True) for of, tell in FOUND.items()}
    pretty = {of: line.replace('}, "', '},\n  "') for of, line in lines.items()}
    text = ",\n".join(f" {json.dumps(of)}: {line}" for of, line in pretty.items())
    FILE.write_text("{\n" + text + "\n}\n", encoding="utf-8")
