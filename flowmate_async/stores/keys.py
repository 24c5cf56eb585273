"""The key of a sealed store: its form, its encodings, and where it is looked for.

A key is 32 random bytes. Passphrases are refused: they would need stretching, and they get guessed.
``sealed/sealing.py`` uses the key; nothing here touches a store.
"""

import base64
import binascii
import hmac
import os
import re
from collections.abc import Mapping
from pathlib import Path
from secrets import token_bytes
from typing import ClassVar, Self

from flowmate_async.errors import ConfigurationError
from flowmate_async.redaction import Redacted, one_line
from flowmate_async.stores import bech32
from flowmate_async.stores.url import StoreUrl, absolute
from flowmate_async.system.keyring import ask_keyring
from flowmate_async.system.private_files import create_private, read_private_text

__all__ = [
    "StoreKey",
    "load_key",
    "load_other_key",
    "read_key_file",
    "write_key_file",
]

KEY_BYTES = 32
KEYRING_SERVICE = "flowmate_async store key"

AGE_PREFIX = "age-secret-key-"
"""The prefix of an age identity: 32 bytes in Bech32, which can also be a store's key."""

_HEX = re.compile(r"[0-9A-Fa-f]{64}")
_BASE64 = re.compile(r"[A-Za-z0-9+/_-]{43}=?")
_STANDARD_ALPHABET = str.maketrans("-_", "+/")
_HOW_TO_MAKE_ONE = "Make one with: flowmate store keygen store.key"


class StoreKey(Redacted, frozen=True):
    """The key of a store: exactly 32 bytes, which never print.

    Attributes:
        material: the bytes.

    Raises:
        ConfigurationError: they are not 32.
    """

    material: bytes

    __shown__: ClassVar[tuple[str, ...]] = ("key_id",)

    def __post_init__(self) -> None:
        if len(self.material) != KEY_BYTES:
            raise ConfigurationError(f"a store key is {KEY_BYTES} bytes", advice=_HOW_TO_MAKE_ONE)

    @classmethod
    def generate(cls) -> Self:
        """Return a new random key."""
        return cls(token_bytes(KEY_BYTES))

    @classmethod
    def parse(cls, text: str, *, what: str = "the store key") -> Self:
        """Parse an encoded key.

        64 hex characters, or 32 bytes in base64 or base64url, or an age identity (``AGE-SECRET-KEY-1…``).

        Args:
            text: the encoded key; surrounding white space and lines that begin with ``#`` are ignored.
            what: how messages call it.

        Raises:
            ConfigurationError: it has another form; the error does not repeat it.
        """
        key = cls._decoded(_without_comments(text))
        del text
        if key is None:
            raise ConfigurationError(
                f"{what} is not {KEY_BYTES} bytes in hex or base64; passphrases are refused",
                advice=_HOW_TO_MAKE_ONE,
            )
        return key

    @classmethod
    def _decoded(cls, text: str) -> Self | None:
        if _HEX.fullmatch(text):
            return cls(bytes.fromhex(text))
        if text.lower().startswith(AGE_PREFIX):
            return cls._of_age(text)
        if not _BASE64.fullmatch(text):
            return None
        standard = text.rstrip("=").translate(_STANDARD_ALPHABET)
        material = binascii.a2b_base64(standard + "=")
        # The last character has two spare bits; a typo there must not pass for another key.
        canonical = base64.b64encode(material).decode().rstrip("=") == standard
        return cls(material) if canonical else None

    @classmethod
    def _of_age(cls, text: str) -> Self | None:
        decoded = bech32.decode(AGE_PREFIX, text)
        return None if decoded is None or len(decoded) != KEY_BYTES else cls(decoded)

    def encoded(self) -> str:
        """Return the key in base64url, as :meth:`parse` reads it. This text opens the store."""
        return base64.urlsafe_b64encode(self.material).decode()

    def age_identity(self) -> str:
        """Return the key as age writes it, and as :meth:`parse` reads it. As secret as :meth:`encoded`."""
        return bech32.encode(AGE_PREFIX, self.material).upper()

    @property
    def key_id(self) -> str:
        """A short public name of the key, which reveals nothing of it."""
        return hmac.digest(self.material, b"flowmate_async key id", "sha256")[:8].hex()


def _without_comments(text: str) -> str:
    """Drop the leading comments of an ``age-keygen`` key file."""
    return "\n".join(line for line in text.strip().splitlines() if not line.startswith("#")).strip()


class _Sources(Redacted, frozen=True, kw_only=True):
    """Where a key may be, kept out of the locals in tracebacks."""

    key_file: str
    encoded: str
    file_of_environment: str


def write_key_file(
    path: str | os.PathLike[str], key: StoreKey | None = None, *, age: bool = False
) -> StoreKey:
    """Write a key to a new file that only its owner may read.

    Args:
        path: the file, which must not exist yet.
        key: the key; a new one is made when left out.
        age: write it as an age identity, which the ``age`` tool also reads.

    Raises:
        ConfigurationError: the file already exists, or cannot be created.
    """
    key = key or StoreKey.generate()
    if not create_private(path, f"{key.age_identity() if age else key.encoded()}\n".encode()):
        raise ConfigurationError(
            f"{one_line(os.fspath(path), limit=1000)} exists already",
            advice="Choose another name: overwriting a key would lock its store for good",
        )
    return key


def read_key_file(path: str | os.PathLike[str]) -> StoreKey:
    """Return the key in a private file.

    Args:
        path: the file, as :func:`write_key_file` makes it: with mode 0600, or 0440 and owned by root.

    Raises:
        ConfigurationError: missing, readable by others, or not a key.
    """
    return StoreKey.parse(
        read_private_text(path, what="the key file"),
        what=f"the key in {one_line(os.fspath(path), limit=1000)}",
    )


def load_key(
    env: Mapping[str, str], *, store_url: str, key_file: str | os.PathLike[str] | None = None
) -> StoreKey:
    """Find the key of a store.

    In this order: the key file named here, ``FLOWMATE_STORE_KEY``, ``FLOWMATE_STORE_KEY_FILE``, the system
    keyring.

    Args:
        env: the environment.
        store_url: the store's URL; the keyring's entry is bound to it.
        key_file: a key file named explicitly.

    Raises:
        ConfigurationError: no key is found, or the first one found is not a key.
    """
    sources = _Sources(
        key_file=os.fspath(key_file or ""),
        encoded=env.get("FLOWMATE_STORE_KEY", ""),
        file_of_environment=env.get("FLOWMATE_STORE_KEY_FILE", ""),
    )
    del env
    if sources.key_file:
        return read_key_file(sources.key_file)
    if sources.encoded.strip():
        return StoreKey.parse(sources.encoded, what="FLOWMATE_STORE_KEY")
    if sources.file_of_environment:
        return read_key_file(sources.file_of_environment)
    return _key_of_keyring(keyring_entry(store_url))


def load_other_key(env: Mapping[str, str]) -> StoreKey | None:
    """Return the other key that a store may have during a key change; ``None`` when there is none.

    In ``FLOWMATE_STORE_OTHER_KEY`` or in the file named by ``FLOWMATE_STORE_OTHER_KEY_FILE``.

    Args:
        env: the environment.

    Raises:
        ConfigurationError: it is not a key.
    """
    sources = _Sources(
        key_file="",
        encoded=env.get("FLOWMATE_STORE_OTHER_KEY", ""),
        file_of_environment=env.get("FLOWMATE_STORE_OTHER_KEY_FILE", ""),
    )
    del env
    if sources.encoded.strip():
        return StoreKey.parse(sources.encoded, what="FLOWMATE_STORE_OTHER_KEY")
    return read_key_file(sources.file_of_environment) if sources.file_of_environment else None


def keyring_entry(store_url: str) -> str:
    """Return the name of a store's entry in the keyring: its URL, with the path made absolute."""
    for prefix in ("sqlite:///", "jsonl+age:///"):
        if store_url.startswith(prefix):
            return f"{prefix}{absolute(Path(store_url.removeprefix(prefix)))}"
    return StoreUrl.of(store_url).text


def _key_of_keyring(entry: str) -> StoreKey:
    found = ask_keyring(KEYRING_SERVICE, entry)
    if found.problem:
        raise ConfigurationError(
            f"the system keyring does not answer: {found.problem}",
            advice="Unlock or repair it, or set FLOWMATE_STORE_KEY_FILE",
        )
    if found.text is not None:
        return StoreKey.parse(found.text, what="the key in the system keyring")
    raise ConfigurationError(
        "the store is sealed, and no key was given",
        advice=(
            "Name a key file (mode 0600), or set FLOWMATE_STORE_KEY_FILE or FLOWMATE_STORE_KEY, or put the "
            "key in the system keyring (extra 'keyring') with: "
            f"keyring set '{KEYRING_SERVICE}' '{one_line(entry, limit=1000)}'. {_HOW_TO_MAKE_ONE}"
        ),
    )
