"""From a URL to a store."""

import subprocess
import sys
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path

import pytest

from flowmate_async.errors import ConfigurationError
from flowmate_async.stores import StoreKey, open_store, registry
from flowmate_async.stores.memory import MemoryStore
from flowmate_async.stores.sqlite.store import SqliteStore

PASSWORD = "p4ss/word?with#signs"


def custom(url: str, *, key: StoreKey | None) -> MemoryStore:
    """A factory as somebody else's package provides it."""
    assert url == "custom+thing://place"
    assert key is None
    return MemoryStore()


@pytest.fixture
def entry_points(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two installed stores, one of which lacks its driver."""
    found = {"custom+thing": f"{__name__}:custom", "broken": "no_such_driver:factory", "sqlite": "no:such"}
    entries = EntryPoints(EntryPoint(name, value, registry.ENTRY_POINTS) for name, value in found.items())
    monkeypatch.setattr(registry, "entry_points", entries.select)
    monkeypatch.setitem(sys.modules, __name__, sys.modules.get(__name__) or sys.modules[custom.__module__])


def test_memory_opens_a_new_store_each_time() -> None:
    assert isinstance(open_store("memory:"), MemoryStore)
    assert open_store("memory:") is not open_store("memory:")


@pytest.mark.parametrize("url", ["memory:name", "memory://", "memory:///x"])
def test_a_store_in_memory_has_no_name(url: str) -> None:
    with pytest.raises(ConfigurationError, match="Write memory:"):
        open_store(url)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("sqlite:///creds.db", "{cwd}/creds.db"),
        ("sqlite:///sub/creds.db", "{cwd}/sub/creds.db"),
        ("sqlite:////srv/creds.db", "/srv/creds.db"),
        ("SQLITE:////srv/creds.db", None),
        ("sqlite:////srv/a%20b%3F%23.db", "/srv/a b?#.db"),
        ("sqlite:////home/a@b/c:d.db", "/home/a@b/c:d.db"),
    ],
)
def test_a_sqlite_url_is_a_path(
    url: str, expected: str | None, key: StoreKey, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three slashes and a relative path, or four and an absolute one; made absolute at once."""
    monkeypatch.chdir(tmp_path)
    if expected is None:
        with pytest.raises(ConfigurationError):
            open_store(url, key=key)
        return
    store = open_store(url, key=key)
    assert isinstance(store, SqliteStore)
    assert str(store.path) == expected.format(cwd=tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "url",
    [
        "sqlite:",
        "sqlite://",
        "sqlite:///",
        "sqlite://creds.db",
        "sqlite:///a?b=c",
        "sqlite:///a#b",
        "sqlite:///%00",
    ],
)
def test_a_sqlite_url_that_cannot_work_is_refused(url: str, key: StoreKey) -> None:
    """With the two forms that do."""
    with pytest.raises(ConfigurationError, match=r"sqlite:///relative\.db or sqlite:////absolute\.db"):
        open_store(url, key=key)


def test_a_sealed_store_needs_a_key() -> None:
    with pytest.raises(ConfigurationError, match="needs a key"):
        open_store("sqlite:///creds.db")


@pytest.mark.parametrize("url", ["", "creds.db", "/srv/creds.db", "mysql://host/db", ":memory:"])
@pytest.mark.usefixtures("entry_points")
def test_an_unknown_scheme_lists_the_known_ones(url: str) -> None:
    """Those of installed packages among them."""
    known = r"awssm, broken, custom\+thing, jsonl\+age, memory, openbao, postgresql, sqlite"
    with pytest.raises(ConfigurationError, match=f"Known schemes: {known}$"):
        open_store(url)


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://user:{PASSWORD}@host/db",
        f"postgresql://:{PASSWORD}@host/db",
        f"postgresql://host/db?password={PASSWORD}",
        f"sqlite://user:{PASSWORD}@host/creds.db",
        f"nothing://user:{PASSWORD}@host",
    ],
)
def test_a_url_with_a_credential_is_refused_and_not_repeated(url: str, key: StoreKey) -> None:
    """Also with a password whose special characters were not escaped."""
    with pytest.raises(ConfigurationError, match="holds a credential") as caught:
        open_store(url, key=key)
    assert "p4ss" not in str(caught.value)


@pytest.mark.usefixtures("entry_points")
def test_a_store_of_another_package_is_found_by_entry_point() -> None:
    """Its factory gets the URL and the key; it cannot take the place of a store of ours."""
    assert isinstance(open_store("custom+thing://place"), MemoryStore)
    with pytest.raises(ConfigurationError, match="needs a key"):
        open_store("sqlite:///creds.db")


@pytest.mark.usefixtures("entry_points")
def test_a_store_without_its_driver_says_which() -> None:
    with pytest.raises(
        ConfigurationError, match=r"broken cannot be loaded: No module named 'no_such_driver'"
    ):
        open_store("broken://host")


def test_importing_the_stores_imports_no_driver() -> None:
    """Nor the ciphers, nor pytest: those come with the store that needs them."""
    program = "import sys, flowmate_async.stores; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert {"sqlite3", "cryptography", "pytest", "keyring"}.isdisjoint(done.stdout.split())
