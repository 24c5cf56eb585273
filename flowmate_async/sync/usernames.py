"""Usernames as stores keep them."""

from flowmate_async.redaction import one_line


def safe_name(username: object) -> str:
    """Return the username, or, for what was refused because it is no username, a text that shows it."""
    if isinstance(username, str) and username.isprintable():  # which also rules out surrogates
        return username
    return one_line(ascii(username))
