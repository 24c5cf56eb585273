"""Keys: what is one, where it is looked for, and that an error never repeats one."""

import base64
import stat
import sys
import types
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from flowmate_async.errors import ConfigurationError
from flowmate_async.stores import StoreKey, load_key, write_key_file
from flowmate_async.stores.keys import KEYRING_SERVICE, keyring_entry

materials = st.binary(min_size=32, max_size=32)
URL = "sqlite:////srv/creds.db"


@given(materials)
def test_a_key_is_read_from_hex_base64_and_base64url(material: bytes) -> None:
    """With or without padding, in either case, with white space around it."""
    encodings = [material.hex(), material.hex().upper()]
    encodings += [base64.b64encode(material).decode(), base64.urlsafe_b64encode(material).decode()]
    for text in [*encodings, encodings[2].rstrip("="), encodings[3].rstrip("="), f" {encodings[0]}\n"]:
        assert StoreKey.parse(text) == StoreKey(material)


@given(materials)
def test_an_encoded_key_is_read_back(material: bytes) -> None:
    assert StoreKey.parse(StoreKey(material).encoded()) == StoreKey(material)


@given(st.text(max_size=100))
def test_anything_else_is_refused_and_not_repeated(text: str) -> None:
    """Passphrases above all; the error says how to make a key."""
    assume(len(text.strip()) not in (43, 44, 64))
    with pytest.raises(ConfigurationError) as caught:
        StoreKey.parse(text)
    assert len(text.strip()) < 8 or text.strip() not in str(caught.value)
    assert "flowmate store keygen" in caught.value.advice


@given(st.binary(max_size=80))
def test_a_key_of_another_length_is_refused(material: bytes) -> None:
    assume(len(material) != 32)
    for text in (material.hex(), base64.b64encode(material).decode()):
        with pytest.raises(ConfigurationError):
            StoreKey.parse(text)
    with pytest.raises(ConfigurationError):
        StoreKey(material)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "correct horse battery staple",
        "0" * 63,
        "0" * 65,
        "g" * 64,
        "A" * 42 + "B=",
        "A" * 43 + "==",
        "é" * 64,
    ],
)
def test_near_misses_are_refused(text: str) -> None:
    """Among them base64 whose spare bits are set: a slip of the pen must not pass for another key."""
    with pytest.raises(ConfigurationError):
        StoreKey.parse(text)


def test_generated_keys_differ() -> None:
    keys = {StoreKey.generate().material for _ in range(10)}
    assert len(keys) == 10


@given(materials)
def test_a_key_id_names_the_key_and_reveals_nothing(material: bytes) -> None:
    """Stable, 16 hex digits, no part of the key; the only thing that prints."""
    key = StoreKey(material)
    assert key.key_id == StoreKey(material).key_id
    assert len(key.key_id) == 16
    assert bytes.fromhex(key.key_id) not in material
    assert repr(key) == f"StoreKey(key_id='{key.key_id}')"


def test_a_key_file_is_private_and_never_overwritten(tmp_path: Path) -> None:
    """Mode 0600 from the first moment; a second writing is refused, and the key stays."""
    path = tmp_path / "store.key"
    key = write_key_file(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with pytest.raises(ConfigurationError, match="exists already"):
        write_key_file(path)
    assert load_key({}, store_url=URL, key_file=path) == key
    assert [file.name for file in tmp_path.iterdir()] == ["store.key"]


def test_a_given_key_can_be_written_to_a_file(tmp_path: Path) -> None:
    key = StoreKey.generate()
    assert write_key_file(tmp_path / "store.key", key) is key
    assert load_key({}, store_url=URL, key_file=tmp_path / "store.key") == key


def test_keys_are_looked_for_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file named explicitly, the variable, the variable's file, the keyring; empty ones are skipped."""
    explicit, of_variable = write_key_file(tmp_path / "explicit"), write_key_file(tmp_path / "variable")
    direct, of_keyring = StoreKey.generate(), StoreKey.generate()
    use_keyring(monkeypatch, {(KEYRING_SERVICE, URL): of_keyring.encoded()})
    env = {"FLOWMATE_STORE_KEY": direct.encoded(), "FLOWMATE_STORE_KEY_FILE": str(tmp_path / "variable")}
    assert load_key(env, store_url=URL, key_file=tmp_path / "explicit") == explicit
    assert load_key(env, store_url=URL) == direct
    assert load_key({**env, "FLOWMATE_STORE_KEY": " "}, store_url=URL) == of_variable
    assert load_key({}, store_url=URL) == of_keyring


def test_a_wrong_key_is_not_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first source that has anything decides: the next one might hold the key of another store."""
    use_keyring(monkeypatch, {(KEYRING_SERVICE, URL): StoreKey.generate().encoded()})
    with pytest.raises(ConfigurationError, match="FLOWMATE_STORE_KEY is not 32 bytes"):
        load_key({"FLOWMATE_STORE_KEY": "a passphrase"}, store_url=URL)


def test_no_key_anywhere_names_all_the_ways(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether the keyring is not installed, has no backend, or has no such entry."""
    for entries in (None, {}, {("error", "error"): "NoKeyringError"}):
        use_keyring(monkeypatch, entries)
        with pytest.raises(ConfigurationError) as caught:
            load_key({}, store_url=URL)
        text = str(caught.value)
        for way in (
            "key file",
            "FLOWMATE_STORE_KEY,",
            "FLOWMATE_STORE_KEY_FILE",
            "keyring set",
            URL,
            "flowmate store keygen",
        ):
            assert way in text


def test_a_locked_keyring_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may hold the key, so nothing else is tried."""
    use_keyring(monkeypatch, {("error", "error"): "KeyringLocked"})
    with pytest.raises(ConfigurationError, match="does not answer: KeyringLocked"):
        load_key({}, store_url=URL)


def test_a_keyring_entry_belongs_to_one_absolute_path(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The same relative name in two folders is two stores."""
    monkeypatch.chdir(tmp_path)
    assert keyring_entry("sqlite:///creds.db") == f"sqlite:///{tmp_path}/creds.db"
    assert keyring_entry("sqlite:////srv/creds.db") == "sqlite:////srv/creds.db"
    assert keyring_entry("postgres://db/app") == keyring_entry("postgresql://db/app")
    assert keyring_entry("openbao://host/path") == "openbao://host/path"


def use_keyring(monkeypatch: pytest.MonkeyPatch, entries: dict[tuple[str, str], str] | None) -> None:
    """Put a keyring with these entries in the place of the real one; ``None`` when not installed."""
    if entries is None:
        monkeypatch.setitem(sys.modules, "keyring", None)
        return
    errors = types.SimpleNamespace(KeyringError=type("KeyringError", (Exception,), {}))
    for name in ("NoKeyringError", "KeyringLocked"):
        setattr(errors, name, type(name, (errors.KeyringError,), {}))

    def get_password(service: str, entry: str) -> str | None:
        if ("error", "error") in entries:
            raise getattr(errors, entries["error", "error"])
        return entries.get((service, entry))

    keyring = types.ModuleType("keyring")
    keyring.__dict__.update(errors=errors, get_password=get_password)
    monkeypatch.setitem(sys.modules, "keyring", keyring)
