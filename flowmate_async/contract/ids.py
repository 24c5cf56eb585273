"""Usernames and secret ids: what may be sent, and which spellings mean the same.

Pure. Sections cited are those of docs/contract/OBSERVED.md.
"""

import re

from flowmate_async.errors import InvalidIdError

_MAX_USERNAME = 1024
_ID = re.compile(r"[0-9A-Za-z_-]{1,128}")
_HEX_ID = re.compile(r"[0-9A-Fa-f]{24}")
_PLAIN = re.compile(r"[!-~]{1,256}")
# Control characters and invisible characters: a byte order mark would create another user.
_UNSEEN = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u200b\u200e\u200f\u2028\u2029\u202a-\u202e\u2060\u2066-\u2069\ufeff]"
)


def checked_username(username: str) -> str:
    """Return the username if it may be sent.

    Raises:
        InvalidIdError: it is not a string, empty, padded, over 1024 characters, or has control or invisible
            characters.
    """
    if type(username) is str and _PLAIN.fullmatch(username):
        return username  # nearly all usernames; they break none of the rules below
    if not isinstance(username, str):
        raise InvalidIdError(f"a username is text, not {type(username).__name__}")
    if not username.strip():
        raise InvalidIdError("an empty username cannot be impersonated")
    if username != username.strip() or _UNSEEN.search(username) or not _encodable(username):
        raise InvalidIdError(
            "a username with surrounding blanks, control or invisible characters", username=username
        )
    if len(username) > _MAX_USERNAME:
        raise InvalidIdError(f"a username of more than {_MAX_USERNAME} characters", username=username)
    return username


def is_username(text: str) -> bool:
    """Return whether a text may be sent as a username."""
    try:
        checked_username(text)
    except InvalidIdError:
        return False
    return True


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def user_key(username: str) -> str:
    """Return the canonical spelling of a username: upstream ignores case (§ Second look).

    For keys only. Requests, reports and stores keep the original spelling.
    """
    return username.lower() if isinstance(username, str) else username


def secret_key(secret_id: str) -> str:
    """Return the canonical spelling of a secret id (§ Second look).

    Upstream finds a secret by hexadecimal digits of either case and answers in lower case. An id of 12
    characters is raw bytes, in which case matters.
    """
    if not isinstance(secret_id, str) or secret_id.islower() or not _HEX_ID.fullmatch(secret_id):
        return secret_id
    return secret_id.lower()


def canonical_key(username: str, secret_id: str) -> tuple[str, str]:
    """Return the key of one user's secret, for any spelling of both."""
    if type(username) is str and type(secret_id) is str and secret_id.islower():
        return username.lower(), secret_id  # by the rules above, without the calls
    return user_key(username), secret_key(secret_id)


def checked_id(secret_id: str) -> str:
    """Return the secret id if it consists of letters, digits, ``-`` and ``_`` only.

    Raises:
        InvalidIdError: it contains other characters.
    """
    if not isinstance(secret_id, str) or not _ID.fullmatch(secret_id):
        raise InvalidIdError(
            "a secret id has 1 to 128 letters, digits, '-' or '_'", secret_id=str(secret_id)[:128]
        )
    return secret_id
