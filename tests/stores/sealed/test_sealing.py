"""Sealing by itself: nonces, subkeys and what a record is bound to."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowmate_async.errors import StoreError
from flowmate_async.stores import StoreKey
from flowmate_async.stores.encoding import Plaintext
from flowmate_async.stores.sealed.sealing import (
    NONCE_BYTES,
    Sealed,
    Sealing,
    key_check,
    length_prefixed,
    padded,
)
from flowmate_async.testing.samples import api_key
from flowmate_async.values.secrets import MixedSecret, MixedValue

KEY = StoreKey(b"0123456789abcdef0123456789abcdef")
names = st.text(max_size=8)
SEALING = Sealing(KEY, store_id="store", origin="https://flowmate.example")


def seal(username: str = "ann", secret_id: str = "s", run_id: str = "run") -> Sealed:
    sealed = SEALING.seal_unless_same(username, api_key(secret_id), run_id=run_id, stored=None)
    assert sealed is not None
    return sealed


def opens(sealed: Sealed, username: str, secret_id: str, sealing: Sealing = SEALING) -> bool:
    try:
        sealing.open(username, secret_id, sealed)
    except StoreError:
        return False
    return True


def test_no_nonce_is_used_twice() -> None:
    """The same credential sealed again and again looks different each time."""
    sealed = [seal() for _ in range(100)]
    assert len({one.data[:NONCE_BYTES] for one in sealed}) == 100
    assert len({one.data[NONCE_BYTES:] for one in sealed}) == 100
    assert len({one.fingerprint for one in sealed}) == 1


def test_every_run_has_a_subkey_of_its_own() -> None:
    """So that the number of records under one key stays small, however long a store lives."""
    nonce, place = bytes(NONCE_BYTES), b"place"
    ciphertexts = {SEALING._cipher("seal", run).encrypt(nonce, b"same", place) for run in ("a", "b", "c")}
    assert len(ciphertexts) == 3


places = st.tuples(names, names, names)


@given(places, places)
def test_a_record_opens_in_its_own_place_only(
    made: tuple[str, str, str], found: tuple[str, str, str]
) -> None:
    """User, secret and run are distinguished, wherever one name ends and the next begins."""
    sealed = seal(*made)
    moved = Sealed(found[2], sealed.data, sealed.fingerprint)
    assert opens(moved, found[0], found[1]) == (made == found)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (("ab", "c", "d"), ("a", "bc", "d")),
        (("a", "bc", "d"), ("a", "b", "cd")),
        (("", "a", ""), ("a", "", "")),
    ],
)
def test_names_do_not_run_into_each_other(first: tuple[str, str, str], second: tuple[str, str, str]) -> None:
    """Parts are length-prefixed: the same letters split elsewhere are another place."""
    assert length_prefixed(*first) != length_prefixed(*second)


@pytest.mark.parametrize(
    "other",
    [
        Sealing(StoreKey(bytes(32)), store_id="store", origin="https://flowmate.example"),
        Sealing(KEY, store_id="another", origin="https://flowmate.example"),
        Sealing(KEY, store_id="store", origin="https://other.example"),
    ],
)
def test_key_store_and_upstream_are_part_of_the_place(other: Sealing) -> None:
    assert not opens(seal(), "ann", "s", other)


def test_a_fingerprint_depends_on_key_store_user_secret_and_content() -> None:
    """And on nothing else: it is how a later run finds a credential unchanged."""
    other_store = Sealing(KEY, store_id="another", origin="o")
    other_key = Sealing(StoreKey(bytes(32)), store_id="store", origin="o")
    changed = MixedSecret(id="s", value=MixedValue(payload="changed"))
    found = {seal().fingerprint, seal("bob").fingerprint, seal(secret_id="t").fingerprint}
    for sealing, secret in ((other_store, api_key("s")), (other_key, api_key("s")), (SEALING, changed)):
        sealed = sealing.seal_unless_same("ann", secret, run_id="run", stored=None)
        assert sealed is not None
        found.add(sealed.fingerprint)
    assert len(found) == 6
    assert seal(run_id="later").fingerprint == seal().fingerprint


def test_what_is_stored_and_opens_is_not_sealed_again() -> None:
    """In any later run; a damaged record is."""
    stored = seal(run_id="earlier")
    damaged = Sealed(stored.run_id, stored.data[:-1], stored.fingerprint)
    assert SEALING.seal_unless_same("ann", api_key("s"), run_id="later", stored=stored) is None
    assert SEALING.seal_unless_same("ann", api_key("s"), run_id="later", stored=damaged) is not None


def test_a_key_check_belongs_to_one_key_and_one_store() -> None:
    checks = {
        key_check(KEY, store_id="a"),
        key_check(KEY, store_id="b"),
        key_check(StoreKey(bytes(32)), store_id="a"),
    }
    assert len(checks) == 3
    assert key_check(KEY, store_id="a") in checks


@given(st.integers(1, 100_000))
def test_lengths_are_rounded_up_in_steps(length: int) -> None:
    """To 256 bytes, and from 4 KiB on to less than an eighth more; the blanks are not the credential's."""
    step = len(padded(Plaintext(b"x" * length)).data)
    assert padded(Plaintext(b"x" * length)).data.rstrip(b" ") == b"x" * length
    assert step % 256 == 0
    assert 0 <= step - length < max(256, length / 8 + 1)
    assert len(padded(Plaintext(b"x" * step)).data) == step


def test_a_padded_credential_is_the_same_as_one_that_is_not() -> None:
    """Older stores have records without blanks; they are not written anew for that."""
    secret = api_key()
    first = SEALING.seal_unless_same("ann", secret, run_id="run", stored=None)
    assert first is not None
    assert (len(first.data) - 12 - 16) % 256 == 0
    assert SEALING.seal_unless_same("ann", secret, run_id="run-2", stored=first) is None
