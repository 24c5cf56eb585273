"""Canned answers of FlowMate, for servers with minimal cost: a user token, five secrets, their listing.

They have the shape of the recorded answers of docs/contract (an OAuth secret whose ``refreshToken`` is a
ciphertext, the headers of the real service); a test compares them with the sandbox's.
"""

import json
from typing import Any, NamedTuple

ADMIN_TOKEN = "admin-token-of-the-benchmark"  # noqa: S105 - invented
USER_TOKEN = "6235J8sbKK89WYVDG93imzEiHof0ahlTVTkQs9kUeKZYyOGqnFjAIzgzK3Dhf0pgzKg2ElDj3QaaZ4s7nauc85B4GJUs9iL7bbRuOthtv4TAYPZy6qTSSRERCjiYA0M7UdR7jIg4fe2U170x1UmiJ0PtA0kYr5gzEsRBrio55uk"  # noqa: E501, S105
SECRET_IDS = tuple(f"6b04797823ada047ee5701{number:02x}" for number in range(0xF8, 0xFD))
SECRET_ID = SECRET_IDS[0]
ACCESS_TOKEN = "ya29." + "a0AfH6SMBq3xZpW7vKcTnYdRgLhEuJbQmXsFoiIwPzCtNrVlDkGyHaUeOjBxS5T1" * 2
_CIPHERTEXT = "0\x96yw\xc7 \xf0\r\x83\x01\xae\n0q6Z\x8b\x1fT\xd2k\xe9\x02\x9c\x7f\xb4\x11I\x89\xd8\xc6"
_VALUE = {
    "authClientId": "6b04797823ada047ee5701ec",
    "scope": "read write",
    "expires": "2099-11-23T18:35:52.322Z",
    "externalId": "ext-1-3",
}


class CannedResponse(NamedTuple):
    """A good answer: its body, and upstream's headers besides ``Content-Length`` and ``Date``."""

    body: bytes
    headers: tuple[tuple[str, str], ...]


_NOT_KEPT = ("Cache-Control", "no-store, no-cache, must-revalidate, private")


def _answer(content: Any, etag: str, *more: tuple[str, str]) -> CannedResponse:
    body = json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()
    headers = (
        ("Content-Type", "application/json; charset=utf-8"),
        ("ETag", f'W/"{len(body):x}-{etag}"'),
        *more,
    )
    return CannedResponse(body, headers)


def _summary(secret_id: str) -> dict[str, Any]:
    return {
        "_id": secret_id,
        "name": "an app",
        "owners": [{"id": "6b0479777e391027cec4eb38", "type": "USER"}],
        "type": "OA2_AUTHORIZATION_CODE",
        "__t": "S_OA2_AUTHORIZATION_CODE",
    }


def _secret(secret_id: str) -> CannedResponse:
    data = {
        "value": _VALUE | {"refreshToken": _CIPHERTEXT, "accessToken": ACCESS_TOKEN},
        **_summary(secret_id),
        "encryptedFields": ["refreshToken"],
        "createdAt": "2026-11-23T17:35:52.337Z",
        "updatedAt": "2026-11-23T17:35:52.337Z",
        "__v": 0,
    }
    return _answer({"data": data}, "sOJ15e66eOvt5bvzn9SvbsGIB5o", _NOT_KEPT)


_PAGE = {
    "data": [{"value": _VALUE, **_summary(secret_id)} for secret_id in SECRET_IDS],
    "meta": {"page": 1, "perPage": 100, "total": len(SECRET_IDS), "totalPages": 1},
}
_TOKEN = {"token": USER_TOKEN, "id": "600000018828b0d704000000"}

ANSWERS = {
    "/impersonate": _answer(_TOKEN, "8xslWGJc9hZtc1wti1x+UzdCwr8"),
    "/secrets/": _answer(_PAGE, "3VxIPQ5aMd4URAObtbIC7GyhnWo", _NOT_KEPT),
    **{f"/secrets/{secret_id}": _secret(secret_id) for secret_id in SECRET_IDS},
}
"""By path, without its query."""
