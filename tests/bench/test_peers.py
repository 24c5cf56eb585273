"""No peer disappears: what is not installed is missing, what does not work has failed; the table has both."""

import asyncio
import textwrap

import pytest
import tables
import throughput

from flowmate_async.bench.rounds import Target, in_workers

pytestmark = pytest.mark.anyio
NOWHERE = Target(url="http://127.0.0.1:9")


@pytest.fixture
def a_peer(tmp_path, monkeypatch):
    """Write a peer of this source, and return the entry of it."""

    def written(source: str) -> throughput.Entry:
        package = tmp_path / "peers"
        package.mkdir()
        (package / "invented.py").write_text(textwrap.dedent(source))
        (tmp_path / "worker.py").write_text((throughput.HERE / "worker.py").read_text())
        (tmp_path / "machine.py").write_text((throughput.HERE / "machine.py").read_text())
        (tmp_path / "cores.py").write_text((throughput.HERE / "cores.py").read_text())
        monkeypatch.setattr(throughput, "HERE", tmp_path)
        entry = throughput.Entry("invented")
        monkeypatch.setitem(throughput.ENTRIES, "invented", entry)
        return entry

    return written


async def compared() -> dict:
    return await throughput.compare(NOWHERE, ["invented"], rounds=2, seconds=0.02)


async def test_a_peer_that_is_not_installed_is_missing(a_peer):
    a_peer("import a_package_that_nobody_has")
    found = await compared()
    assert found["missing"] == {"invented": "No module named 'a_package_that_nobody_has'"}
    assert (found["contenders"], found["failed"]) == ({}, {})


async def test_a_peer_that_breaks_has_failed_and_is_not_called_missing(a_peer):
    a_peer("""
        from contextlib import asynccontextmanager

        @asynccontextmanager
        async def contender(target):
            raise TypeError("the package has changed")
            yield
    """)
    found = await compared()
    assert found["failed"] == {"invented": "TypeError: the package has changed"}
    assert (found["contenders"], found["missing"]) == ({}, {})


async def test_a_peer_that_works_has_as_many_rounds_as_were_asked_for(a_peer):
    a_peer("""
        import asyncio
        from contextlib import asynccontextmanager
        from flowmate_async.bench.rounds import in_workers

        async def fetch(_number):
            await asyncio.sleep(0)
            return "right"

        @asynccontextmanager
        async def contender(target):
            yield in_workers(fetch, "right")
    """)
    found = await compared()
    assert found["contenders"]["invented"]["rounds"] == 2
    assert (found["failed"], found["missing"]) == ({}, {})


async def test_a_wrong_answer_is_no_answer():
    async def fetch(number: int) -> str:
        await asyncio.sleep(0)
        return "right" if number else "wrong"

    with pytest.raises(ValueError, match="something else"):
        await in_workers(fetch, "right", workers=2)(0.05)


def test_missing_and_failed_peers_are_in_the_table():
    row = {"per_second": 10.0, "lower_quartile": 9.0, "upper_quartile": 11.0, "cpu_us": 5.0, "version": "1.2"}
    scheme = {
        "contenders": {"here": row},
        "missing": {"absent": "No module named 'absent'"},
        "failed": {"broken": "TypeError: changed"},
    }
    lines = list(tables.throughput({"server": "nginx 1", "http": scheme, "https": scheme}))
    assert any(line.startswith("| here 1.2 | 10 |") for line in lines)
    assert any("absent" in line and "missing: No module" in line for line in lines)
    assert any("broken" in line and "failed: TypeError" in line for line in lines)
