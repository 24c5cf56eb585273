"""Where requests go: the parts of a base URL, the same for every transport."""

import re
from typing import Self
from urllib.parse import urlsplit

import msgspec

from flowmate_async.errors import ConfigurationError
from flowmate_async.transport.request_rules import is_target

_PORTS = {"http": 80, "https": 443}
_VISIBLE = re.compile(r"[!-~]+")


class Origin(msgspec.Struct, frozen=True, kw_only=True):
    """One HTTP origin (RFC 9110 § 4.3.1), with the path below which requests are made.

    Attributes:
        secure: whether it is https.
        host: a name or an address, without brackets.
        port: its port.
        authority: what the ``Host`` header says.
        prefix: the path of the base URL, without a final slash.
    """

    secure: bool
    host: str
    port: int
    authority: str
    prefix: str

    @classmethod
    def of(cls, base_url: str) -> Self:
        """Return the origin of a base URL.

        Raises:
            ConfigurationError: it has no host, another scheme than http(s), or characters that a request line
                cannot hold.
        """
        if _VISIBLE.fullmatch(base_url) is None:
            raise ConfigurationError(
                "the base URL has characters that HTTP cannot carry",
                advice="Write other letters in the host as xn--…, and in the path, like blanks, as %…",
            )
        parts = urlsplit(base_url)
        prefix = parts.path.rstrip("/")
        if parts.scheme not in _PORTS or not parts.hostname or not is_target(f"{prefix}/"):
            raise ConfigurationError("the base URL is not a plain http(s) URL")
        port = parts.port or _PORTS[parts.scheme]
        host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
        return cls(
            secure=parts.scheme == "https",
            host=parts.hostname,
            port=port,
            authority=host if port == _PORTS[parts.scheme] else f"{host}:{port}",
            prefix=prefix,
        )
