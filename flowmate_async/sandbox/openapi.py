"""OpenAPI: the description of the sandbox's public routes, served at ``/openapi.json``.

Written from docs/contract/OBSERVED.md as one table of operations; ``/_sandbox/`` is not part of it.
"""

from typing import Any

from flowmate_async.sandbox.answers import Answer, json_answer, json_body

OPENAPI_PATH = "/openapi.json"

_Schema = dict[str, Any]

_ID: _Schema = {"type": "string", "pattern": "^[0-9a-f]{24}$"}
_TEXT: _Schema = {"type": "string"}
_TEXTS: _Schema = {"type": "array", "items": _TEXT}
_MOMENT: _Schema = {"type": "string", "format": "date-time"}
_TYPE: _Schema = {"type": "string", "description": "SIMPLE, API_KEY, OA2_AUTHORIZATION_CODE, … or a new one"}


def _object(required: dict[str, _Schema], **optional: _Schema) -> _Schema:
    return {
        "type": "object",
        "required": list(required),
        "properties": required | optional,
        "additionalProperties": False,
    }


def _named(name: str) -> _Schema:
    return {"$ref": f"#/components/schemas/{name}"}


_LISTED = _object(
    {
        "_id": _ID,
        "name": _TEXT,
        "owners": {"type": "array", "items": _named("Owner")},
        "type": _TYPE,
        "__t": _TEXT,
    },
    value={"type": "object", "description": "authClientId, scope, expires, externalId; no credential"},
    currentError={"type": "object"},
)
_SECRET = _object(
    {
        "value": {"type": "object"},
        "_id": _ID,
        "name": _TEXT,
        "owners": {"type": "array", "items": _named("Owner")},
        "type": _TYPE,
        "encryptedFields": _TEXTS,
        "__t": _TEXT,
        "createdAt": _MOMENT,
        "updatedAt": _MOMENT,
        "__v": {"type": "integer"},
    },
    domain=_TEXT,
    mixedProperties={"type": "object"},
    lockedAt={"type": ["string", "null"]},
    currentError={"type": "object"},
)
_USER = _object(
    {
        "_id": _ID,
        "username": _TEXT,
        "firstname": _TEXT,
        "lastname": _TEXT,
        "status": _TEXT,
        "confirmed": {"type": "boolean"},
        "roles": _TEXTS,
        "permissions": _TEXTS,
        "createdAt": _MOMENT,
        "updatedAt": _MOMENT,
        "__v": {"type": "integer"},
    },
    tenant=_ID,
    safeguard={"type": "object"},
)
_COUNT: _Schema = {"type": "integer"}
_PAGE_META = _object({"page": _COUNT, "perPage": _COUNT, "total": _COUNT, "totalPages": _COUNT})

_SCHEMAS: dict[str, _Schema] = {
    "Error": _object({"message": _TEXT}),
    "Owner": _object({"id": _ID, "type": {"type": "string", "enum": ["USER", "TENANT"]}}),
    "Impersonation": {
        "type": "object",
        "required": ["username"],
        "properties": {"username": {"type": "string", "description": "External id of the user"}},
    },
    "UserToken": _object({"token": {"type": "string", "pattern": "^[A-Za-z0-9_-]{171}$"}, "id": _ID}),
    "User": _USER,
    "Users": {"type": "array", "items": _named("User")},
    "UsersWithMeta": _object(
        {"data": _named("Users"), "meta": _object({"total": {"type": "integer"}})},
    ),
    "ListedSecret": _LISTED,
    "SecretPage": _object(
        {"data": {"type": "array", "items": _named("ListedSecret")}, "meta": _PAGE_META},
    ),
    "Secret": _SECRET,
    "OneSecret": _object({"data": _named("Secret")}),
}

_JSON = "application/json"
_ERROR = (_JSON, _named("Error"))
_SECTION = "docs/contract/OBSERVED.md § "


def _answers(good: _Schema, **others: tuple[str, _Schema]) -> _Schema:
    """Responses of an operation: 200 and ``s<status>``; 429 is any route's."""
    said = {"200": (_JSON, good)} | {name.removeprefix("s"): other for name, other in others.items()}
    return {
        status: {"description": _MEANINGS[status], "content": {kind: {"schema": schema}}}
        for status, (kind, schema) in (said | {"429": _ERROR}).items()
    }


_MEANINGS = {
    "200": "OK",
    "400": "A body that is no impersonation",
    "401": "No token, an unknown token, a malformed secret id; or the services behind are down",
    "403": "Not yours",
    "404": "Unknown",
    "429": "Above the limit; Retry-After says for how long",
    "500": "A bad user id, a page before the first, or a refresh that failed",
}
_ADMIN: list[_Schema] = [{"adminToken": []}]
_USER_TOKEN: list[_Schema] = [{"userToken": []}]


def _query(name: str, schema: _Schema, meaning: str) -> _Schema:
    return {"name": name, "in": "query", "required": False, "schema": schema, "description": meaning}


def _path_id(meaning: str) -> _Schema:
    return {"name": "id", "in": "path", "required": True, "schema": _ID, "description": meaning}


_PATHS: dict[str, _Schema] = {
    "/impersonate": {
        "post": {
            "operationId": "impersonate",
            "summary": "A user's token, for the tenant's admin token",
            "description": _SECTION + "Impersonation",
            "security": _ADMIN,
            "requestBody": {
                "required": True,
                "content": {_JSON: {"schema": _named("Impersonation")}},
            },
            "responses": _answers(_named("UserToken"), s400=_ERROR, s401=_ERROR, s403=_ERROR, s404=_ERROR),
        }
    },
    "/users/": {
        "get": {
            "operationId": "listUsers",
            "summary": "Every account, in one body",
            "description": _SECTION + "Users of the tenant",
            "security": _ADMIN,
            "parameters": [
                _query("username", _TEXTS, "Exact, on the lower-cased query; empty means no filter"),
                _query("userId", {"type": "array", "items": _ID}, "Internal ids"),
                _query("meta", _TEXT, "Wrap the array in data and meta, whatever the value"),
            ],
            "responses": _answers(
                {"anyOf": [_named("Users"), _named("UsersWithMeta")]}, s401=_ERROR, s403=_ERROR, s500=_ERROR
            ),
        }
    },
    "/users/{id}": {
        "get": {
            "operationId": "getUser",
            "summary": "One account",
            "description": _SECTION + "Users of the tenant",
            "security": _ADMIN,
            "parameters": [_path_id("Internal id")],
            "responses": _answers(
                _named("User"), s401=_ERROR, s403=_ERROR, s404=("text/plain", _TEXT), s500=_ERROR
            ),
        }
    },
    "/secrets/": {
        "get": {
            "operationId": "listSecrets",
            "summary": "One page of the user's secrets, without credentials",
            "description": _SECTION + "Listing",
            "security": _USER_TOKEN,
            "parameters": [
                _query("page[size]", _COUNT, "30 by default, no maximum"),
                _query("page[number]", {"type": "integer", "minimum": 1}, "From 1"),
            ],
            "responses": _answers(_named("SecretPage"), s401=_ERROR, s500=_ERROR),
        }
    },
    "/secrets/{id}": {
        "get": {
            "operationId": "getSecret",
            "summary": "One secret, refreshed if less than 15 minutes remain, masked unless raw-readable",
            "description": _SECTION + "One secret",
            "security": _USER_TOKEN,
            "parameters": [_path_id("Id of the secret")],
            "responses": _answers(_named("OneSecret"), s401=_ERROR, s403=_ERROR, s404=_ERROR, s500=_ERROR),
        }
    },
}


def document() -> dict[str, Any]:
    """Return the description as plain data."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Local sandbox of FlowMate's upstream",
            "version": "1",
            "description": "A stand-in for tests, written from docs/contract/OBSERVED.md.",
        },
        "paths": _PATHS,
        "components": {
            "schemas": _SCHEMAS,
            "securitySchemes": {
                "adminToken": {"type": "http", "scheme": "bearer"},
                "userToken": {"type": "http", "scheme": "bearer"},
            },
        },
    }


def describe() -> Answer:
    """Return the description as an answer."""
    return json_answer(json_body(document()))
