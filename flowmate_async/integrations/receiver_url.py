"""URLs that messages are sent to: https, or http to this machine.

They may hold a secret, so no error repeats one, and no frame that raises has one among its locals.
"""

from urllib.parse import urlsplit

from flowmate_async.errors import ConfigurationError
from flowmate_async.redaction import Redacted
from flowmate_async.transport.request_rules import is_target
from flowmate_async.values.settings import checked_base_url


class Receiver(Redacted, frozen=True):
    """Where messages are sent.

    Attributes:
        origin: scheme, host and port.
        target: path and query.
    """

    origin: str
    target: str

    def below(self, suffix: str) -> str:
        """Return the target with this at the end of its path.

        Args:
            suffix: empty, or a path that begins with a slash.
        """
        path, separator, query = self.target.partition("?")
        return (path.rstrip("/") + suffix or "/") + separator + query


class ReceiverUrl(Redacted, frozen=True):
    """The URL as it was configured.

    Attributes:
        text: the URL.
    """

    text: str

    def receiver(self, *, what: str, example: str) -> Receiver:
        """Return where messages are sent.

        Args:
            what: what it is, for the message: ``the webhook's URL``.
            example: one that works, for the message.

        Raises:
            ConfigurationError: it cannot be used.
        """
        parsed = self._parsed()
        if isinstance(parsed, Receiver):
            return parsed
        raise ConfigurationError(f"{what} cannot be used: {parsed}", advice=f"It looks like {example}")

    def _parsed(self) -> Receiver | str:
        """Return the receiver, or what is wrong with the URL."""
        if not isinstance(self.text, str):
            return "it is not text"
        try:
            parts = urlsplit(self.text)
            target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
            origin = checked_base_url(parts._replace(path="", query="", fragment="").geturl())
        except ConfigurationError as error:
            return error.message.replace("the base URL", "it")
        except ValueError:
            return "it is not a URL"
        return Receiver(origin, target) if is_target(target) else "it has characters that HTTP cannot carry"
