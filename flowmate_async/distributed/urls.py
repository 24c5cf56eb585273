"""URLs with login data: where they are read from, and the rules for connections to Redis or a broker.

A connection to another machine needs TLS with a verified certificate, unless the caller allows plaintext. No
message repeats any part of a URL that is refused: a password with an unquoted ``@`` or ``/`` ends up in what
looks like a host.
"""

from collections.abc import Mapping
from typing import ClassVar, Self
from urllib.parse import SplitResult, parse_qsl, urlsplit

from flowmate_async.errors import ConfigurationError
from flowmate_async.redaction import Redacted
from flowmate_async.system.private_files import read_private_text
from flowmate_async.values.settings import is_loopback

_TLS = frozenset({"rediss", "amqps", "sqs", "azureservicebus", "azurestoragequeues", "gcpubsub", "slmq"})
"""Schemes whose connections are always encrypted."""

_FILES = frozenset({"ssl_ca_certs", "ssl_certfile", "ssl_keyfile"})
_VERIFYING = {"ssl_cert_reqs": ("required", "cert_required"), "ssl_check_hostname": ("true", "1", "yes")}
"""Values of these options that do not weaken verification."""

_QUOTE = "Write @ : / ? # % and ; in a user name or password as %40 %3A %2F %3F %23 %25 %3B"
_EXAMPLE = "rediss://user:password@host:port/0"
_WEAK = f"Certificates are always verified; the options for TLS are {', '.join(sorted(_FILES))}"
_ALLOW = (
    "Use TLS, as rediss:// does, or pass --allow-plaintext (allow_plaintext=True) if the network is trusted"
)


class SecretUrl(Redacted, frozen=True):
    """A URL with its login data; never printed.

    Attributes:
        text: the URL; empty when none is named.
    """

    text: str

    @property
    def place(self) -> str:
        """Scheme, host and port, for messages; of a URL that :meth:`check` accepts."""
        return ";".join(map(_place, self._parts()))

    @property
    def tls_files(self) -> dict[str, str]:
        """The files named by its TLS options, by option, as ``ssl_ca_certs``."""
        named = (option for parts in self._parts() for option in parse_qsl(parts.query))
        return {name: value for name, value in named if name in _FILES}

    def check(self, what: str, *, allow_plaintext: bool) -> None:
        """Refuse a URL that is invalid or whose connection would not be private.

        Args:
            what: what is at the URL, for the message: ``Redis``.
            allow_plaintext: accept plaintext connections to other machines.

        Raises:
            ConfigurationError: it is refused; the message does not contain it.
        """
        problem, advice = self._problem(allow_plaintext=allow_plaintext)
        if problem:
            raise ConfigurationError(f"the URL of {what} {problem}", advice=advice)

    def _problem(self, *, allow_plaintext: bool) -> tuple[str, str]:
        try:
            several = self._parts()
        except ValueError:
            return "cannot work", f"Write {_EXAMPLE}. {_QUOTE}"
        for parts in several:
            if parts.netloc.count("@") > 1 or "@" in f"{parts.path}{parts.query}{parts.fragment}":
                return "cannot work: it has an unquoted character", _QUOTE
            if not all(map(_keeps_verification, parse_qsl(parts.query, keep_blank_values=True))):
                return "has an option that weakens TLS or is unknown", _WEAK
            private = parts.scheme in _TLS or not parts.hostname or is_loopback(parts.hostname)
            if not private and not allow_plaintext:
                return "would send credentials to another machine in clear", _ALLOW
        return "", ""

    def _parts(self) -> list[SplitResult]:
        several = [urlsplit(one) for one in self.text.split(";")]
        for parts in several:
            _ = parts.port  # raises ValueError unless it is a number
        return several


class NamedUrl(Redacted, frozen=True):
    """A URL's environment variables, kept out of the locals of frames that raise.

    Attributes:
        variable: the variable's name.
        text: its value.
        file: the value of the variable with ``_FILE`` appended to its name.
    """

    variable: str
    text: str
    file: str

    __shown__: ClassVar[tuple[str, ...]] = ("variable", "file")

    @classmethod
    def of(cls, environ: Mapping[str, str], variable: str) -> Self:
        """Look up a variable and its ``_FILE`` counterpart."""
        return cls(variable, environ.get(variable, ""), environ.get(f"{variable}_FILE", ""))

    def read(self) -> SecretUrl:
        """Return the URL itself.

        Raises:
            ConfigurationError: the file is missing, or not private.
        """
        if self.text or not self.file:
            return SecretUrl(self.text.strip())
        return SecretUrl(read_private_text(self.file, what=f"the file that {self.variable}_FILE names"))


def _place(parts: SplitResult) -> str:
    host = parts.hostname or ""
    bracketed = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{bracketed}" + ("" if parts.port is None else f":{parts.port}")


def _keeps_verification(option: tuple[str, str]) -> bool:
    name, value = option
    if name == "credential_provider":  # a function that the driver would import
        return False
    if not name.startswith("ssl_") or name in _FILES:
        return True
    return value.lower() in _VERIFYING.get(name, ())
