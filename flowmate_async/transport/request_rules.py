"""Rules for requests on every transport: nothing in a request may turn it into another one.

The layers above never send anything else; these rules make an injection impossible in any case.
"""

import re

from flowmate_async.redaction import Headers

# Headers about the message itself. Set by a caller, they could make one message look like two.
_OF_THE_TRANSPORT = frozenset(
    {
        "host",
        "connection",
        "content-length",
        "content-type",
        "transfer-encoding",
        "accept-encoding",
        "te",
        "trailer",
        "upgrade",
        "expect",
        "keep-alive",
        "proxy-connection",
    }
)

_METHODS = ("GET", "POST", "HEAD")
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110 § 5.6.2


NOT_SENDABLE = "the request holds what HTTP cannot carry; nothing was sent"
"""Said of a request that breaks these rules."""


is_target = re.compile(r"/[!-\"$-~]*").fullmatch
"""Match a path and query that can stand in a request line: visible ASCII, no fragment (RFC 9112 § 3.2.1)."""


def is_method(method: str) -> bool:
    """Return whether the seam knows this method."""
    return method in _METHODS


def is_value(value: str) -> bool:
    """Return whether a header can have this value: visible ASCII and blanks."""
    return value.isascii() and value.isprintable()


def are_fields(headers: Headers) -> bool:
    """Return whether a request can carry these headers: tokens as names, ASCII without controls as values."""
    return all(
        _NAME.fullmatch(name) is not None and name.lower() not in _OF_THE_TRANSPORT and is_value(value)
        for name, value in headers.pairs
    )
