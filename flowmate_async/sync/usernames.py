"""Usernames as stores keep them."""

from flowmate_async.redaction import one_line


def storable(username: object) -> str:
    """The username, or, for what is no username and was refused as such, a text that shows it."""
    if isinstance(username, str) and username.isprintable() and not _has_surrogates(username):
        return username
    return one_line(ascii(username))


def _has_surrogates(text: str) -> bool:
    return any("\ud800" <= letter <= "\udfff" for letter in text)
