"""The system's keyring, extra ``keyring``: one question, and an answer that never shows.

A keyring that is missing, locked or broken is an answer as well: backends raise errors of their own kinds.
"""

from importlib import import_module
from typing import ClassVar

from flowmate_async.redaction import Redacted
from flowmate_async.system.driver_boundary import DriverBoundary


class KeyringAnswer(Redacted, frozen=True):
    """What the keyring answered.

    Attributes:
        text: the password that is kept there; ``None`` when there is none.
        problem: why the keyring could not answer; empty when it could.
    """

    text: str | None = None
    problem: str = ""

    __shown__: ClassVar[tuple[str, ...]] = ("problem",)


def ask_keyring(service: str, name: str) -> KeyringAnswer:
    """Look up a password.

    Args:
        service: what it is for, which the keyring calls the service.
        name: which one it is, which the keyring calls the username.
    """
    try:
        with DriverBoundary():
            return KeyringAnswer(import_module("keyring").get_password(service, name))
    except Exception as failure:  # noqa: BLE001 - backends have errors of their own, as D-Bus's
        is_missing = isinstance(failure, ImportError) and failure.name == "keyring"
        kind = type(failure).__name__
    return KeyringAnswer(problem="" if is_missing or kind == "NoKeyringError" else kind)
