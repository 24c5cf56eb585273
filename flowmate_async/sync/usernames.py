"""Usernames in the form that stores keep."""

from flowmate_async.redaction import one_line


def safe_name(username: object) -> str:
    """Return the username or, for a value refused as an invalid username, a text that shows it."""
    if isinstance(username, str) and username.isprintable():  # which also rules out surrogates
        return username
    return one_line(ascii(username))
