"""With an eager task factory a flight may have landed before anybody could wait for it."""

import asyncio
import sys

import pytest

from flowmate_async.access.single_flight import SingleFlight


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks came with Python 3.12")
@pytest.mark.parametrize("fails", [False, True])
def test_a_launch_that_never_suspends_is_answered(fails):
    async def launch(flight):
        with flight:
            if fails:
                raise LookupError("nothing there")
        return "value"

    async def main():
        asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)
        flights = SingleFlight()
        async with asyncio.timeout(5):
            if fails:
                with pytest.raises(LookupError):
                    await flights.fly("key", launch)
            else:
                assert await flights.fly("key", launch) == "value"
        assert flights.statistics().under_way == 0

    asyncio.run(main())
