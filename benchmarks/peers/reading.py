"""What every peer but the idiomatic one makes of a body: a typed struct of the fields that are read."""

import msgspec


class _Value(msgspec.Struct, rename="camel"):
    access_token: str


class _Secret(msgspec.Struct):
    type: str
    value: _Value


class _Envelope(msgspec.Struct):
    data: _Secret


_decode = msgspec.json.Decoder(_Envelope).decode


def access_token(body: bytes | memoryview) -> str:
    """The access token in the answer."""
    return _decode(body).data.value.access_token
