"""Work that a call waits for and that needs a coroutine: identifying an OAuth client, borrowing a slot.

Both are rare, so a task for each does not cost anything on the hot path.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from flowmate_async.engine.call import Call
from flowmate_async.engine.coordination import RefreshLender
from flowmate_async.engine.refresh import Loan
from flowmate_async.engine.refreshes import held_by
from flowmate_async.system.finishing import cancel_and_wait

Identify = Callable[[Call], Awaitable[object]]
"""Finds out which OAuth client is behind a call's secret, if a listing shows it. Does not raise."""


class SideTasks:
    """The tasks of one engine beside its calls.

    Args:
        lender: lends slots that processes share, if there are others.
    """

    __slots__ = ("_lender", "_tasks", "identify")

    def __init__(self, lender: RefreshLender | None) -> None:
        self._lender = lender
        self._tasks: set[asyncio.Task[None]] = set()
        self.identify: Identify | None = None

    def find_client(self, call: Call, then: Callable[[], object]) -> None:
        """Find out which OAuth client is behind a call's secret, then call ``then``."""
        held_by(call).identified = True
        self._start(self._find_client(call, then))

    def borrow(self, call: Call) -> None:
        """Borrow a slot for a call, which then resumes or fails."""
        loan = Loan()
        held_by(call).loan = loan
        loan.task = self._start(self._borrow(call, loan))

    async def aclose(self) -> None:
        """End every task."""
        await cancel_and_wait(*self._tasks)

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _find_client(self, call: Call, then: Callable[[], object]) -> None:
        try:
            if self.identify is not None:
                await self.identify(call)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is the caller's
            call.fail(error)
        else:
            then()

    async def _borrow(self, call: Call, loan: "Loan") -> None:
        if self._lender is None:
            raise AssertionError("nothing is borrowed where there is no lender")
        client, secret_id = held_by(call).client, call.request.secret_id or ""
        try:
            async with self._lender.slot(client, secret_id):
                loan.is_lent = True
                call.go_on()
                await loan.given_back.wait()
        except asyncio.CancelledError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, it is the caller's
            call.fail(error)
