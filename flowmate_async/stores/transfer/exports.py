"""Exports written by the user's own code: CSV or JSON, each record checked before anything is stored.

Errors name the record and the field, and never repeat a value. Nothing here knows any store.
"""

import codecs
import csv
import io
import re
from collections.abc import Iterable, Iterator
from typing import Any, ClassVar

import msgspec

from flowmate_async.contract.ids import checked_id, checked_username
from flowmate_async.contract.masks import masked_fields
from flowmate_async.errors import ConfigurationError, InvalidIdError, ProtocolError
from flowmate_async.redaction import Redacted, one_line
from flowmate_async.values.secrets import Secret, UnknownSecret, decode_secret

_FIELDS = {"username", "id", "_id", "type", "name", "owners", "created_at", "updated_at", "value"}
_UPSTREAMS_OWN = {"__t", "__v", "createdAt", "currentError", "updatedAt"}
_OF_SECRET = {"id": "_id", "created_at": "createdAt", "updated_at": "updatedAt"}
_TYPES = "SIMPLE, API_KEY, OA2_AUTHORIZATION_CODE, SESSION_AUTH, MIXED, OA1_TWO_LEGGED, OA1_THREE_LEGGED"
_EXAMPLE = (
    'A record is like {"username": "abc123", "id": "66761aedcf268b4d68470e27", "type": "API_KEY", '
    '"value": {"key": "…"}}; in CSV the fields of the value are columns like value.key'
)
_OF_VALUES = frozenset(
    {
        "accessToken",
        "accessTokenSecret",
        "authClientId",
        "expiresAt",
        "externalId",
        "headerName",
        "inputFields",
        "refreshToken",
    }
)
_SNAKE = re.compile(r"_([a-z])")


class Exported(Redacted, frozen=True):
    """A credential of an export.

    Attributes:
        username: the user.
        secret: the credential.
        place: the record's position, for messages.
    """

    username: str
    secret: Secret
    place: str

    __shown__: ClassVar[tuple[str, ...]] = ("username", "place")


class Export(Redacted, frozen=True):
    """The bytes of an export, which hold credentials in plaintext."""

    data: bytes


class _Record(Redacted, frozen=True):
    """A raw record, its position, and any obvious problem with it."""

    fields: dict[str, Any]
    place: str
    problem: str = ""


def read_export(export: Export, *, kind: str) -> list[Exported]:
    """Return every credential of an export.

    Args:
        export: what the file holds.
        kind: ``csv`` or ``json``; JSON is one array, or one object per line.

    Raises:
        ConfigurationError: a record is invalid, duplicate or masked; the message does not contain its value.
    """
    export = _in_utf_8(export)
    records = _csv_records(export) if kind == "csv" else _json_records(export)
    found: dict[tuple[str, str], Exported] = {}
    for record in records:
        exported = _exported(record)
        place = (exported.username, exported.secret.id)
        if place in found:
            raise ConfigurationError(
                f"{exported.place} is of the same user and secret as {found[place].place}",
                advice="Leave one of them out",
            )
        found[place] = exported
    if not found:
        raise ConfigurationError("the export holds no record", advice=_EXAMPLE)
    return list(found.values())


def _in_utf_8(export: Export) -> Export:
    """Return the export without the byte order mark that Windows editors and PowerShell write."""
    if not export.data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return Export(export.data.removeprefix(codecs.BOM_UTF8))
    try:
        return Export(export.data.decode("utf-16").encode())
    except UnicodeDecodeError:
        return export  # which is neither JSON nor CSV


def _exported(record: _Record) -> Exported:
    problem = record.problem or _problem_of(record)
    secret = None
    if not problem:
        try:
            username = checked_username(record.fields["username"])
            secret = _decoded(record)
            checked_id(secret.id)
        except InvalidIdError as failure:
            problem = failure.message
        except ProtocolError:
            problem = "it is no secret of its type: a field is missing, or of another kind"
        else:
            problem = _problem_of_secret(secret)
    if secret is not None and not problem:
        return Exported(username, secret, record.place)
    raise ConfigurationError(f"{record.place}: {problem}", advice=_EXAMPLE)


def _problem_of(record: _Record) -> str:
    unknown = sorted(set(record.fields) - _FIELDS - _UPSTREAMS_OWN)
    if unknown:
        return f"there is no field '{one_line(str(unknown[0]), limit=40)}'"
    known = dict(record.fields, id=record.fields.get("id") or record.fields.get("_id"))
    lacking = [name for name in ("username", "id", "type", "value") if not known.get(name)]
    return f"it has no {lacking[0]}" if lacking else ""


def _problem_of_secret(secret: Secret) -> str:
    if isinstance(secret, UnknownSecret):
        return f"the type is none of {_TYPES}"
    masked = masked_fields(secret)
    return f"the field {masked[0]} is masked, so it is not a credential" if masked else ""


def _decoded(record: _Record) -> Secret:
    """Return the secret in upstream's form."""
    encoded = _encoded(record)
    if encoded is None:
        raise ProtocolError("the record cannot be encoded as JSON")
    return decode_secret(encoded, keep_refresh_fields=True)


def _encoded(record: _Record) -> msgspec.Raw | None:
    fields = {_OF_SECRET.get(name, name): part for name, part in record.fields.items() if name != "username"}
    if isinstance(fields["value"], dict):
        fields["value"] = {_upstreams(name): part for name, part in fields["value"].items()}
    try:
        return msgspec.Raw(msgspec.json.encode(fields))
    except (msgspec.MsgspecError, UnicodeError):
        return None


def _upstreams(name: str) -> str:
    """Return upstream's name of a field: ``accessToken`` for ``access_token``."""
    camel = _SNAKE.sub(lambda found: found[1].upper(), name)
    return camel if camel in _OF_VALUES else name


def _json_records(export: Export) -> Iterator[_Record]:
    if export.data.lstrip().startswith(b"["):
        what, lines = "record", _array(export)
    else:
        lines = [msgspec.Raw(line) for line in export.data.splitlines()]
        what = "line"
    for number, line in enumerate(lines, start=1):
        if bytes(line).strip():
            yield _Record(_object(line, place=f"{what} {number}"), f"{what} {number}")


def _array(export: Export) -> Iterable[msgspec.Raw]:
    try:
        return msgspec.json.decode(export.data, type=list[msgspec.Raw])
    except msgspec.MsgspecError as failure:
        reason = _position(failure)
    raise ConfigurationError(f"the export is not JSON{reason}", advice=_EXAMPLE)


def _object(line: msgspec.Raw, *, place: str) -> dict[str, Any]:
    try:
        return msgspec.json.decode(line, type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeError):
        pass
    raise ConfigurationError(f"{place} is not a JSON object", advice=_EXAMPLE)


def _position(failure: msgspec.MsgspecError) -> str:
    found = re.search(r"\(byte \d+\)", str(failure))
    return f" {found.group()}" if found else ""


def _csv_records(export: Export) -> tuple[_Record, ...]:
    records, reason = _csv_parsed(export)
    if reason:
        raise ConfigurationError(f"the export cannot be read: {reason}", advice=_EXAMPLE)
    return records


def _csv_parsed(export: Export) -> tuple[tuple[_Record, ...], str]:
    """Return the records, or why there are none. Never raises: its frame holds plaintext credentials."""
    try:
        rows = csv.DictReader(io.StringIO(export.data.decode("utf-8-sig"), newline=""), strict=True)
        return tuple(_row_record(row, place=f"line {rows.line_num}") for row in rows), ""
    except UnicodeDecodeError:
        return (), "it is not UTF-8 text"
    except csv.Error:
        return (), "it is not CSV: a quote is not closed or out of place, or a cell is too long"


def _row_record(row: dict[str | Any, Any], *, place: str) -> _Record:
    if None in row or None in row.values():
        return _Record({}, place, "it has more or fewer cells than the first line")
    fields: dict[str, Any] = {}
    value: dict[str, Any] = {}
    for name, cell in row.items():
        if cell and name.startswith("value."):
            value[name.removeprefix("value.")] = cell
        elif cell:
            fields[name] = cell
    return _Record(fields | {"value": value}, place)
