"""Where an OpenBao or Vault store is, and the token for it.

The URL never contains a token: it comes from a private file that the URL names, from ``BAO_TOKEN`` or
``VAULT_TOKEN``, or from ``~/.vault-token``, where ``bao login`` writes it.
"""

import os
import re
import ssl
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from flowmate_async.errors import ConfigurationError
from flowmate_async.redaction import Redacted, one_line
from flowmate_async.stores.url import StoreUrl, UrlParts
from flowmate_async.system.private_files import home_folder, is_file, read_private_text
from flowmate_async.transport.tls import client_context
from flowmate_async.values.settings import is_loopback

_OPTIONS = frozenset({"tls", "cacert", "token_file", "namespace", "versions"})
_VERSIONS = re.compile(r"[1-9][0-9]?|100")
_SEGMENT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_EXAMPLE = (
    "It looks like openbao://host:8200/secret/flowmate: the mount of a KV engine (version 2), then a path"
)
_TOKEN_FILE = ".vault-token"  # noqa: S105 - a file's name
_DEFAULT_PORT = 8200


class Token(Redacted, frozen=True):
    """A token, which never prints."""

    text: str

    @property
    def is_header_value(self) -> bool:
        """Return whether a header can carry the token."""
        return all("!" <= letter <= "~" for letter in self.text)


class Address(msgspec.Struct, frozen=True, kw_only=True):
    """A mount of a server and a path in it.

    Attributes:
        origin: scheme, host and port.
        mount: the mount of the KV engine.
        path: the path in it.
        ca_file: the authorities to trust instead of the system's.
        token_file: a private file with the token.
        namespace: the namespace, empty for the root's.
        versions: how many versions of a document the server keeps.
    """

    origin: str
    mount: str
    path: str
    ca_file: str = ""
    token_file: str = ""
    namespace: str = ""
    versions: int = 1

    @property
    def where(self) -> str:
        """The address as text for messages."""
        return f"{self.origin}/{self.mount}/{self.path}"

    def context(self) -> ssl.SSLContext | None:
        """Return the TLS rules; ``None`` for plain HTTP.

        Raises:
            ConfigurationError: the authorities' file cannot be used.
        """
        if self.origin.startswith("http:"):
            return None
        return client_context(ca_file=self.ca_file or None)

    def token(self) -> Token:
        """Read the token; each call reads it again.

        Raises:
            ConfigurationError: there is none.
        """
        if self.token_file:
            found = Token(read_private_text(self.token_file, what="the token file"))
        else:
            found = self._token_of_environment()
        if found.text and found.is_header_value:
            return found
        if found.text:
            raise ConfigurationError(
                "the token for OpenBao has blanks, line breaks or other characters that no header can carry",
                advice="The token must be all there is, without a name or quotes around it",
            )
        raise ConfigurationError(
            "there is no token for OpenBao",
            advice="Set BAO_TOKEN, name a private file with ?token_file=…, or run bao login",
        )

    @staticmethod
    def _token_of_environment() -> Token:
        found = Token((os.environ.get("BAO_TOKEN") or os.environ.get("VAULT_TOKEN") or "").strip())
        default = None if found.text else _default_token_file()
        return found if default is None else Token(read_private_text(default, what="the token file"))


def parse_address(url: str | StoreUrl) -> Address:
    """Return the address in ``openbao://host:8200/mount/path``.

    TLS is required; ``?tls=off`` works for this machine only. Without a host, ``BAO_ADDR`` or ``VAULT_ADDR``
    is used.

    Raises:
        ConfigurationError: the URL is invalid.
    """
    url = StoreUrl.of(url)
    parts = url.parts()
    if parts is None:
        raise ConfigurationError("this is not the URL of an OpenBao store", advice=_EXAMPLE)
    _check(parts)
    options = parts.options
    mount, _, path = parts.path.strip("/").partition("/")
    port = parts.port or _DEFAULT_PORT
    origin = _origin(parts.host, port, options.get("tls", "on")) if parts.host else _origin_of_environment()
    return Address(
        origin=origin,
        mount=mount,
        path=path,
        ca_file=options.get("cacert") or os.environ.get("BAO_CACERT") or os.environ.get("VAULT_CACERT") or "",
        token_file=options.get("token_file", ""),
        namespace=_namespace(options),
        versions=int(options.get("versions", "1")),
    )


def _default_token_file() -> Path | None:
    """Return the file that ``bao login`` writes, if it exists in a readable home."""
    home = home_folder()
    found = None if home is None else home / _TOKEN_FILE
    return None if found is None or not is_file(found) else found


def _namespace(options: dict[str, str]) -> str:
    found = options.get("namespace") or os.environ.get("BAO_NAMESPACE") or os.environ.get("VAULT_NAMESPACE")
    return found or ""


def _check(parts: UrlParts) -> None:
    unknown = sorted(set(parts.options) - _OPTIONS)
    segments = parts.path.strip("/").split("/")
    whole = len(segments) >= 2 and all(_SEGMENT.fullmatch(segment) for segment in segments)
    switches = parts.options.get("tls", "on") in ("on", "off") and _VERSIONS.fullmatch(
        parts.options.get("versions", "1")
    )
    if unknown or parts.fragment or parts.user or not whole or not switches:
        wrong = f": ?{one_line(unknown[0], limit=40)} is unknown" if unknown else ""
        raise ConfigurationError(f"this is not the URL of an OpenBao store{wrong}", advice=_EXAMPLE)


def _origin(host: str, port: int, tls: str) -> str:
    if tls == "off" and not is_loopback(host):
        raise ConfigurationError(
            f"?tls=off would send credentials to {host} in clear", advice="It is for this machine only"
        )
    bracketed = f"[{host}]" if ":" in host else host
    return f"{'https' if tls == 'on' else 'http'}://{bracketed}:{port}"


def _origin_of_environment() -> str:
    named = os.environ.get("BAO_ADDR") or os.environ.get("VAULT_ADDR") or ""
    try:
        parts = urlsplit(named)
        host, port = parts.hostname or "", parts.port or _DEFAULT_PORT
    except ValueError:
        host = ""
    if not host or parts.scheme not in ("http", "https"):
        raise ConfigurationError("the URL of the OpenBao store names no host", advice=_EXAMPLE)
    return _origin(host, port, "off" if parts.scheme == "http" else "on")
