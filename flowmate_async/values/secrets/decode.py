"""Decode secrets. Lenient about decoration, strict about ids and about what is presented to an app."""

import functools
from typing import Any

import msgspec
from msgspec import structs

from flowmate_async.redaction import Redacted
from flowmate_async.values.decoding import decode_safely
from flowmate_async.values.models import lenient_owners, lenient_scope, lenient_text
from flowmate_async.values.secrets.refresh_fields import drop_refresh_fields
from flowmate_async.values.secrets.union import CREDENTIALS, KNOWN_TYPES, KnownSecret, Secret, UnknownSecret


class _Answer(Redacted, frozen=True):
    """A secret in the envelope that upstream answers with."""

    data: KnownSecret


class _AnyAnswer(Redacted, frozen=True):
    data: msgspec.Raw


_known_decoder: msgspec.json.Decoder[KnownSecret] = msgspec.json.Decoder(KnownSecret)
_object_decoder = msgspec.json.Decoder(dict[str, Any])
_answer_decoder = msgspec.json.Decoder(_Answer)
_any_answer_decoder = msgspec.json.Decoder(_AnyAnswer)


def decode_answer(body: bytes | msgspec.Raw) -> Secret:
    """Decode the body of an answer: the secret in its envelope, in one pass if its type is known.

    A credential that is missing or ``null`` decodes as an empty one; see :func:`missing_credential`.

    Raises:
        msgspec.MsgspecError: not JSON, no envelope, or not a secret of its type. Call this by way of
            :func:`~flowmate_async.values.decoding.decode_safely`.
    """
    try:
        return _answer_decoder.decode(body).data
    except msgspec.ValidationError:
        return _decode_leniently(_object_decoder.decode(_any_answer_decoder.decode(body).data), fill=True)


def missing_credential(secret: Secret) -> str | None:
    """Return the field that should hold this secret's credential and is blank; ``None`` if none is.

    A blank credential is not one: no app accepts it, and no header can carry it.
    """
    for attribute in CREDENTIALS.get(type(secret), ()):
        part = getattr(secret.value, attribute)
        if part is None or not part.strip():
            return _wire_name(_value_type(type(secret)), attribute)
    return None


def decode_secret(data: bytes | msgspec.Raw, *, keep_refresh_fields: bool = False) -> Secret:
    """Decode one secret, whatever its type.

    Args:
        data: the JSON object as upstream sends it, or as ``msgspec.json.encode(secret)`` wrote it.
        keep_refresh_fields: keep ``refreshToken`` and ``inputFields``, which are upstream's own business
            (docs/contract/OBSERVED.md § One secret) and dropped otherwise.

    Raises:
        ProtocolError: not JSON, or not a secret of its type; nothing of the data is in the error.
    """
    data = msgspec.Raw(data)  # bytes would show among the locals of this frame, a Raw does not
    secret = decode_safely(_decode, data, what="the secret")
    if not keep_refresh_fields:
        drop_refresh_fields(secret)
    return secret


def _decode(data: bytes | msgspec.Raw) -> Secret:
    try:
        return _known_decoder.decode(data)
    except msgspec.ValidationError:
        # An unknown type, an unknown field, odd decoration, or an error: only now worth a closer look.
        return _decode_leniently(_object_decoder.decode(data), fill=False)


def _decode_leniently(fields: dict[str, Any], *, fill: bool) -> Secret:
    """Decode what the strict decoder refused.

    Args:
        fields: the secret's JSON object, changed in place.
        fill: whether a credential that is missing or ``null`` becomes an empty one instead of an error.
    """
    fields["name"] = lenient_text(fields.get("name"))
    fields["owners"] = lenient_owners(fields.get("owners"))
    known = KNOWN_TYPES.get(str(fields.get("type")))
    if known is None:
        return msgspec.convert(fields, UnknownSecret)
    value = fields.get("value")
    if value is None and fill:
        value = fields["value"] = {}
    if isinstance(value, dict):
        _tidy(value, known, fill=fill)
    secret: Secret = msgspec.convert(fields, known)
    return secret


def _tidy(value: dict[str, Any], known: Any, *, fill: bool) -> None:
    """Make a value fit its type: unknown fields move to ``extra``, odd decoration becomes text or nothing."""
    names = _value_fields(known)
    extra = {name: value.pop(name) for name in list(value) if name not in names}
    kept = value.get("_extra")
    value["_extra"] = {**(kept if isinstance(kept, dict) else {}), **extra}
    for name in ("authClientId", "externalId"):
        if name in value:
            value[name] = lenient_text(value[name])
    if "scope" in value:
        value["scope"] = lenient_scope(value["scope"])
    if type(value.get("username")) is int:  # it is presented to the app, so nothing else is converted
        value["username"] = str(value["username"])
    if fill:
        for attribute in CREDENTIALS.get(known, ()):
            name = _wire_name(_value_type(known), attribute)
            if value.get(name) is None:
                value[name] = ""


@functools.cache
def _value_type(known: Any) -> Any:
    """Return the struct of a known type's value."""
    return next(field.type for field in structs.fields(known) if field.name == "value")


@functools.cache
def _value_fields(known: Any) -> frozenset[str]:
    """Return the names of the fields of a known type's value, as upstream writes them."""
    return frozenset(_value_type(known).__struct_encode_fields__)


@functools.cache
def _wire_name(value_type: Any, attribute: str) -> str:
    """Return the name of a field as upstream writes it."""
    return next(field.encode_name for field in structs.fields(value_type) if field.name == attribute)
