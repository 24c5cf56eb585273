"""What a jsonl+age store promises beyond the laws of every store."""

# ruff: noqa: ASYNC220, ASYNC240 - files and processes are what these tests are about

import asyncio
import json
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

import pyrage
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowmate_async.errors import ConfigurationError, StoreError
from flowmate_async.stores import StoreKey, open_store, write_key_file
from flowmate_async.stores.age import folder as folder_module
from flowmate_async.stores.age.files import identity_of, read_lines, write_lines
from flowmate_async.stores.age.store import AgeStore
from flowmate_async.stores.keys import read_key_file
from flowmate_async.testing.samples import api_key, every_type
from flowmate_async.testing.store_writes import collect, synced, write
from flowmate_async.values.secrets import MixedSecret, MixedValue

pytestmark = pytest.mark.anyio

OpenAge = Callable[[], AgeStore]


@pytest.fixture
def open_age(path: Path, key: StoreKey) -> OpenAge:
    return lambda: AgeStore(path, key=key)


def segments(path: Path) -> list[Path]:
    return sorted(Path(f"{path}.segments").glob("*"))


class TestFiles:
    async def test_a_finished_run_is_one_file_that_age_itself_opens(
        self, open_age: OpenAge, path: Path, tmp_path: Path
    ) -> None:
        """With the store's own key as it was written by keygen, each credential as upstream wrote it."""
        write_key_file(tmp_path / "store.key", age=True)
        key = read_key_file(tmp_path / "store.key")
        async with AgeStore(path, key=key) as store:
            run = await write(store, synced("ann", *every_type().values()))
            assert len(segments(path)) == 3
            await store.finish_run(run, at=2.0)
        assert not Path(f"{path}.segments").exists()
        identity = pyrage.x25519.Identity.from_str((tmp_path / "store.key").read_text().strip())
        lines = map(json.loads, pyrage.decrypt(path.read_bytes(), [identity]).splitlines())
        found = {line["secret"]["_id"]: line["secret"]["value"] for line in lines if line["kind"] == "secret"}
        assert found["secret-1"] == {"key": "sample", "headerName": "X-Key"}
        assert len(found) == len(every_type())

    async def test_every_file_is_private_and_nothing_is_in_clear(
        self, open_age: OpenAge, tmp_path: Path
    ) -> None:
        """Names and usernames included: all of it is encrypted."""
        secret = MixedSecret(id="s", name="the-app", value=MixedValue(payload="the-credential"))
        async with open_age() as store:
            run = await write(store, synced("the-user", secret))
            await store.finish_run(run, at=2.0)
            await store.write(run, [synced("the-user-2", secret)])
        files = [file for file in tmp_path.rglob("*") if file.is_file()]
        assert {file.stat().st_mode & 0o777 for file in files} == {0o600}
        assert Path(f"{store.path}.segments").stat().st_mode & 0o777 == 0o700
        for file in files:
            assert not [
                text for text in (b"the-user", b"the-app", b"the-credential") if text in file.read_bytes()
            ]

    async def test_a_crash_in_mid_compaction_changes_nothing(self, open_age: OpenAge, path: Path) -> None:
        """Segments that the new base holds already are not applied again, whatever they say."""
        async with open_age() as store:
            run = await write(store, synced("ann", api_key("a"), api_key("b")))
            await store.note_missing(run, ["ann"])
            shutil.copytree(f"{path}.segments", f"{path}.kept")
            await store.remove_missing(run, how="delete", at=2.0)
            await store.finish_run(run, at=3.0)
        shutil.move(f"{path}.kept", f"{path}.segments")
        (Path(f"{path}.segments") / ".00000009.age.x.new").write_bytes(b"half a segment")
        async with open_age() as store:
            assert await collect(store.items()) == []
            await store.write(run, [synced("bob", api_key())])
            assert await collect(store.secrets()) == [("bob", api_key())]
            await store.finish_run(run, at=4.0)
            assert not Path(f"{path}.segments").exists()
        async with open_age() as store:
            assert await collect(store.secrets()) == [("bob", api_key())]

    async def test_segments_do_not_grow_for_ever(
        self, open_age: OpenAge, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(folder_module, "_LARGEST_SEGMENTS", 10_000)
        async with open_age() as store:
            run = await write(store)
            for number in range(40):
                await store.write(run, [synced(f"user-{number:02}", api_key(key="k" * 1000))])
                assert len(segments(path)) < 10
            assert len(await collect(store.secrets())) == 40

    async def test_kill_9_loses_nothing_that_was_acknowledged(
        self, open_age: OpenAge, path: Path, key: StoreKey
    ) -> None:
        """And leaves whole users only, and no lock."""
        program = """
import asyncio, sys
from pathlib import Path
from flowmate_async.stores import StoreKey
from flowmate_async.stores.age import folder as age_folder
from flowmate_async.stores.age.store import AgeStore
from flowmate_async.testing.samples import api_key
from flowmate_async.testing.store_writes import synced, write
age_folder._LARGEST_SEGMENTS = 30_000
async def main():
    async with AgeStore(Path(sys.argv[1]), key=StoreKey(sys.argv[2].encode())) as store:
        run = await write(store)
        for number in range(10_000):
            await store.write(run, [synced(f"user-{number:05}", api_key("a", "x" * 500), api_key("b"))])
            print(number, flush=True)
asyncio.run(main())
"""
        command = [sys.executable, "-c", program, str(path), key.material.decode()]
        for lines in (3, 40):
            with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
                acknowledged = [process.stdout.readline() for _ in range(lines)]
                process.kill()
                acknowledged += process.stdout.read().splitlines()
            async with open_age() as store:
                run = await store.last_run()
                done = {one.username async for one in store.checkpoints(run)}
                assert {f"user-{int(number):05}" for number in acknowledged if number.strip()} <= done
                assert (await store.totals(run)).secrets == 2 * len(done)
                assert {(item.username, item.secret_id) async for item in store.items()} >= {
                    (name, secret_id) for name in done for secret_id in "ab"
                }

    @settings(max_examples=15)
    @given(
        st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("xyz"), st.integers(0, 2)), max_size=12)
    )
    def test_compaction_is_invisible(self, writes: list[tuple[str, str, int]]) -> None:
        """Whatever was written, before and after: the same credentials, the same items."""

        async def check(path: Path) -> None:
            key = StoreKey(b"k" * 32)
            async with AgeStore(path, key=key) as store:
                run = await write(store)
                for at, (username, secret_id, value) in enumerate(writes):
                    await store.write(run, [synced(username, api_key(secret_id, str(value)), at=float(at))])
                before = await collect(store.items())
                newest = {(name, one.id): one async for name, one in store.secrets()}
                assert segments(path) or not writes
                await store.finish_run(run, at=1.0)
                assert not segments(path)
                assert await collect(store.items()) == before
                assert {(name, one.id): one async for name, one in store.secrets()} == newest
                expected = {(name, one): api_key(one, str(value)) for name, one, value in writes}
                assert newest == expected

        with tempfile.TemporaryDirectory() as folder:
            asyncio.run(check(Path(folder) / "store.age"))


class TestDamage:
    @pytest.mark.parametrize("keep", [0, 10, 150, -1])
    async def test_a_file_that_was_cut_short_is_named(self, open_age: OpenAge, path: Path, keep: int) -> None:
        async with open_age() as store:
            await write(store, synced("ann", api_key()))
        segment = segments(path)[-1]
        segment.write_bytes(segment.read_bytes()[:keep])
        with pytest.raises(StoreError, match=r"\.age .*damaged, cut short or tampered with\. Restore"):
            await open_age().__aenter__()

    async def test_what_somebody_else_encrypted_for_the_key_is_noticed(
        self, open_age: OpenAge, path: Path, key: StoreKey
    ) -> None:
        """The public half of a key encrypts, but proves nothing."""
        async with open_age() as store:
            await write(store, synced("ann", api_key()), synced("bob", api_key()))
        segment, identity = segments(path)[-1], identity_of(key)
        forged = [line.replace(b'"sample"', b'"planted"', 1) for line in read_lines(segment, identity)]
        write_lines(segment, forged, identity)
        async with open_age() as store:
            assert (await store.verify()).damaged == (("ann", "secret-1"), ("bob", "secret-1"))
            with pytest.raises(StoreError, match="tampered with") as caught:
                await store.get("ann", "secret-1")
            assert "planted" not in str(caught.value)

    async def test_a_store_that_others_may_read_is_refused(self, open_age: OpenAge, path: Path) -> None:
        async with open_age():
            pass
        path.chmod(0o644)
        with pytest.raises(StoreError, match="chmod 600"):
            await open_age().__aenter__()

    async def test_reading_makes_no_file(self, key: StoreKey, tmp_path: Path) -> None:
        with pytest.raises(StoreError, match="there is no store"):
            await open_store(f"jsonl+age:///{tmp_path}/x.age", key=key, create=False).__aenter__()
        assert list(tmp_path.iterdir()) == []


async def test_whoever_stops_reading_leaves_no_thread_behind(open_age: OpenAge) -> None:
    """Of a file that is larger than what is read ahead."""
    async with open_age() as store:
        await write(store, *(synced(f"user-{number}", api_key(key="x" * 20_000)) for number in range(60)))
        await store.get("user-1", "secret-1")  # has the loop make its worker thread
        before = threading.active_count()
        pairs = store.secrets()
        async for _ in pairs:
            break
        await pairs.aclose()
        assert threading.active_count() == before


async def test_what_is_left_to_the_garbage_collector_does_not_block_the_loop(
    open_age: OpenAge, path: Path, key: StoreKey, no_blocking: None
) -> None:
    """A reading that somebody forgot may be ended in any thread, the event loop's among them."""
    async with open_age() as store:
        await write(store, *(synced(f"user-{number}", api_key(key="x" * 20_000)) for number in range(60)))
    lines = read_lines(segments(path)[-1], identity_of(key))
    await asyncio.to_thread(next, lines)
    lines.close()
    await asyncio.to_thread(_decryptions_ended)


def _decryptions_ended() -> None:
    for thread in threading.enumerate():
        if "_decrypt" in thread.name:
            thread.join(5)
            assert not thread.is_alive()


class TestKeys:
    def test_a_key_file_of_age_keygen_is_a_key(self, tmp_path: Path) -> None:
        """Comments and all."""
        identity = pyrage.x25519.Identity.generate()
        file = tmp_path / "key.txt"
        file.write_text(
            f"# created: 2026-01-01T00:00:00Z\n# public key: {identity.to_public()}\n{identity}\n"
        )
        file.chmod(0o600)
        assert identity_of(read_key_file(file)).text == str(identity)

    @given(st.binary(min_size=32, max_size=32), st.integers(16, 73))
    def test_a_slip_of_the_pen_is_no_key(self, material: bytes, place: int) -> None:
        """The checksum of an identity notices any one wrong letter."""
        text = StoreKey(material).age_identity()
        assert StoreKey.parse(text.lower()) == StoreKey.parse(text) == StoreKey(material)
        wrong = text[:place] + ("Q" if text[place] != "Q" else "P") + text[place + 1 :]
        with pytest.raises(ConfigurationError):
            StoreKey.parse(wrong)

    def test_without_the_driver_the_extra_is_named(
        self, key: StoreKey, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "pyrage", None)
        with pytest.raises(ConfigurationError, match=r"flowmate-async\[age\]"):
            open_store("jsonl+age:///x.age", key=key)

    @pytest.mark.parametrize(
        "url", ["jsonl+age:", "jsonl+age:///", "jsonl+age://x.age", "jsonl+age:///x?y=z"]
    )
    def test_a_url_that_cannot_work_is_refused(self, url: str, key: StoreKey) -> None:
        with pytest.raises(ConfigurationError, match="jsonl\\+age:///relative"):
            open_store(url, key=key)
