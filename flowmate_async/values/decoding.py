"""Decoding bytes that may hold credentials, so that a failure never shows them.

msgspec's errors are harmless, but the frames of their tracebacks are not: error trackers print the
locals, and the locals are the body. :func:`decode_safely` is the one place where bytes are decoded.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

from flowmate_async.errors import ProtocolError
from flowmate_async.redaction import safe_text

T = TypeVar("T")


def decode_safely(decode: Callable[[Any], T], data: bytes | msgspec.Raw, *, what: str) -> T:
    """Decode, or fail without a trace of the data.

    Args:
        decode: a decoder's ``decode``.
        data: the bytes.
        what: what they should be, for the message.

    Raises:
        ProtocolError: they are not; no local of its traceback and no chained error holds them.
    """
    try:
        return decode(data)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        reason = safe_text(str(error))
    del data
    raise ProtocolError(f"{what} is not what the contract documents: {reason}")
