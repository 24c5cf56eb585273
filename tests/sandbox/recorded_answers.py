"""How a sandbox's answers are compared with recorded ones, for the walks through both recordings."""

import json
import re
from datetime import datetime
from pathlib import Path
from typing import Any

ISO_MILLISECONDS = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
TOLERANCE_SECONDS = 60
TOKEN = re.compile(r"[A-Za-z0-9_-]{171}")
OBJECT_ID = re.compile(r"[0-9a-f]{24}")

_MASK = re.compile(r"\*{3,}")  # a ciphertext may have a star of its own
_FOLDER = Path(__file__).parent.parent / "contract"


def recording(name: str) -> list[dict[str, Any]]:
    """Read the cases of a recording."""
    cases: list[dict[str, Any]] = json.loads((_FOLDER / name).read_text(encoding="utf-8"))
    return cases


def unstarred(value: Any) -> Any:
    """Return something readable in place of a recorded mask; masked again it is the same."""
    return _MASK.sub(lambda mask: "x" * len(mask[0]), value) if isinstance(value, str) else value


def sealed_of(answer: dict[str, Any]) -> dict[str, str]:
    """Return the recorded ciphertexts, which nothing can predict."""
    return {name: unstarred(answer["value"][name]) for name in answer["encryptedFields"]}


def alike(recorded: Any, given: Any, where: str) -> None:
    """Assert that two values are equal in every key, type and value; moments may differ by a minute."""
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
    """Assert that two texts are moments in the services' format, less than a minute apart."""
    for text in (recorded, given):
        assert ISO_MILLISECONDS.fullmatch(text), (where, recorded, given)
    apart = datetime.fromisoformat(recorded) - datetime.fromisoformat(given)
    assert abs(apart.total_seconds()) < TOLERANCE_SECONDS, (where, recorded, given)


def headers_alike(recorded: dict[str, str], reply: Any, *, same_body: bool) -> None:
    """Assert that an answer has the recorded headers; the ETag only where the bodies are equal."""
    assert reply.headers.get("content-type") == recorded.get("content-type")
    assert reply.headers.get("cache-control") == recorded.get("cache-control")
    assert ("keep-alive" in reply.headers) == (recorded.get("connection") != "close")
    if "content-length" in recorded:
        assert int(reply.headers["content-length"]) == len(reply.body)
        assert ("etag" in reply.headers) == ("etag" in recorded)
    if "etag" in recorded:
        assert reply.headers["etag"].startswith(f'W/"{len(reply.body):x}-')
        assert not same_body or reply.headers["etag"] == recorded["etag"]


def in_shape(users: Any) -> Any:
    """Return the shape of users: the sandbox's have other names and moments."""
    if isinstance(users, dict):
        return {**users, "data": in_shape(users["data"])}
    return [
        {name: (type(field).__name__, name in user) for name, field in user.items()}
        | {"permissions": user["permissions"], "confirmed": user["confirmed"]}
        for user in users
    ]


def impersonation_alike(recorded: str, given: str) -> None:
    """Assert that an answer to an impersonation has the recorded form."""
    issued = json.loads(given)
    assert list(issued) == list(json.loads(recorded))
    assert TOKEN.fullmatch(issued["token"])
    assert OBJECT_ID.fullmatch(issued["id"])
