"""URLs that messages are sent to: https, or http to this machine.

They may hold a secret, so no error repeats one.
"""

from urllib.parse import urlsplit

from flowmate_async.errors import ConfigurationError
from flowmate_async.transport.request_rules import is_target
from flowmate_async.values.settings import checked_base_url


def split_url(url: str, *, what: str, example: str) -> tuple[str, str]:
    """Return the origin of a URL, and the rest of it.

    Args:
        url: the URL.
        what: what it is, for the message: ``the webhook's URL``.
        example: one that works, for the message.

    Raises:
        ConfigurationError: it cannot be used.
    """
    try:
        parts = urlsplit(url)
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        origin = checked_base_url(parts._replace(path="", query="", fragment="").geturl())
        problem = "" if is_target(target) else "it has characters that HTTP cannot carry"
    except ConfigurationError as error:
        problem = error.message.replace("the base URL", "it")
    except ValueError:
        problem = "it is not a URL"
    if problem:
        raise ConfigurationError(f"{what} cannot be used: {problem}", advice=f"It looks like {example}")
    return origin, target
