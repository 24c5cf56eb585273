"""A store's URL before it is checked: it may contain a password or a token by mistake.

It is wrapped in a redacted struct from the start, since tracebacks may print the locals of frames.
"""

import re
from pathlib import Path
from typing import ClassVar, Self
from urllib.parse import parse_qsl, unquote, urlsplit

from flowmate_async.errors import ConfigurationError
from flowmate_async.redaction import Redacted, shown_path

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*(?=:)")
_POSTGRES = re.compile(r"^postgres://", re.IGNORECASE)
"""What libpq accepts as well, and hosting services write into ``DATABASE_URL``."""
# Deliberately broad: a password may contain unescaped slashes and question marks.
_CREDENTIALS = re.compile(
    r"^[^:]+://[^/@:]*:.*@|[?&](?!token_file=)[^=&]*(password|passwd|passphrase|pwd|secret|token)[^=&]*=",
    re.DOTALL | re.IGNORECASE,
)


class UrlParts(Redacted, frozen=True, gc=True):
    """The parts of a URL, see :func:`urllib.parse.urlsplit`.

    Attributes:
        user: the login name; empty when left out.
        netloc: user, host and port as written.
        host: the host; empty when left out.
        port: the port, if there is one.
        path: the path.
        options: the query's names and values.
        fragment: what follows a ``#``.
    """

    user: str
    netloc: str
    host: str
    port: int | None
    path: str
    options: dict[str, str]
    fragment: str

    __shown__: ClassVar[tuple[str, ...]] = ("host", "port")


class StoreUrl(Redacted, frozen=True):
    """A store's URL; never printed.

    Attributes:
        text: the URL.
    """

    text: str

    @classmethod
    def of(cls, url: "str | StoreUrl") -> Self:
        """Wrap a URL, unless it is already wrapped. ``postgres://`` becomes ``postgresql://``.

        Args:
            url: assign the result to the same name, so that the text is no longer a local.
        """
        return cls(_POSTGRES.sub("postgresql://", url.text if isinstance(url, StoreUrl) else url))

    @property
    def scheme(self) -> str:
        """The scheme in lower case; empty when there is none."""
        found = _SCHEME.match(self.text)
        return found.group().lower() if found else ""

    @property
    def has_credential(self) -> bool:
        """Return whether it seems to hold a password or a token."""
        return _CREDENTIALS.search(self.text) is not None

    def parts(self, *, keep_blank: bool = False) -> UrlParts | None:
        """Return its parts; ``None`` when it cannot be split.

        Args:
            keep_blank: keep options without a value, instead of refusing them.
        """
        try:
            parts = urlsplit(self.text)
            options = parse_qsl(parts.query, keep_blank_values=keep_blank, strict_parsing=bool(parts.query))
            host, port = parts.hostname or "", parts.port
        except ValueError:
            return None
        user = parts.username or ""
        return UrlParts(user, parts.netloc, host, port, parts.path, dict(options), parts.fragment)

    def path_after(self, prefix: str) -> Path | None:
        """Return the absolute path of a file's URL; ``None`` for other URLs.

        Args:
            prefix: the prefix of file URLs, as ``sqlite:///``; for other URLs the result is ``None``.

        Raises:
            ConfigurationError: the path is relative, and the working directory is gone.
        """
        path = unquote(self.text.removeprefix(prefix)) if self.text.startswith(prefix) else ""
        if not path or "\0" in path or "?" in self.text or "#" in self.text:
            return None
        return absolute(Path(path))


def absolute(path: Path) -> Path:
    """Return the path made absolute.

    Raises:
        ConfigurationError: the working directory is gone.
    """
    try:
        return path.absolute()
    except FileNotFoundError:
        pass
    raise ConfigurationError(
        f"the path {shown_path(path)} is relative, and the working directory is gone",
        advice="Change to a directory that exists, or name an absolute path",
    )
