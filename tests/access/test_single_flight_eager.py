"""With an eager task factory a flight may have landed before anything could wait for it."""

import asyncio
import sys

import pytest

from flowmate_async import FlowMate, SecretNotFoundError
from flowmate_async.testing.memory_transport import ImmediateMemoryTransport, MemoryTransport, json_response

SECRET = b'{"data":{"_id":"s","type":"API_KEY","value":{"key":"k"}}}'


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks came with Python 3.12")
@pytest.mark.parametrize("way", [MemoryTransport, ImmediateMemoryTransport])
@pytest.mark.parametrize("fails", [False, True])
def test_an_answer_that_comes_without_a_suspension_is_received(way, fails):
    def upstream(method, path, headers, body):
        if method == "POST":
            return json_response(b'{"token":"t"}')
        return json_response(b'{"message":""}', 404) if fails else json_response(SECRET)

    async def main():
        asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)
        async with (
            asyncio.timeout(5),
            FlowMate(admin_token="a", transport=way(upstream), rate=None) as fm,
        ):
            for _ in range(2):
                if fails:
                    with pytest.raises(SecretNotFoundError):
                        await fm.get_secret("u", "s")
                else:
                    assert (await fm.get_secret("u", "s")).value.key == "k"
            assert fm.stats().flights["secret"].under_way == fm.stats().traffic.in_flight == 0

    asyncio.run(main())
