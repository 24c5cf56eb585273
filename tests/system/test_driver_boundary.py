"""What leaves a driver's code brings none of its frames along, however it leaves."""

import asyncio
import traceback

import pytest

from flowmate_async.system.driver_boundary import DriverBoundary

PLANTED = "the-drivers-own-password"

pytestmark = pytest.mark.anyio


def exposed(error: BaseException) -> str:
    """What an error tracker shows: the whole chain, with the locals of every frame."""
    return "".join(traceback.TracebackException.from_exception(error, capture_locals=True).format())


def driver(*, group=False):
    """Raise as a driver does: chained, and with a password among the locals."""
    password = PLANTED
    try:
        {}[len(password)]
    except KeyError as first:
        if group:
            raise ExceptionGroup("both", [raised(OSError("one")), raised(OSError("two"))]) from first
        raise OSError("refused") from first


def raised(error):
    password = PLANTED
    try:
        assert password
        raise error
    except OSError:
        return error


@pytest.mark.parametrize("group", [False, True])
def test_an_error_comes_out_alone(group):
    """Without the driver's frames, and without what it is chained to; members of groups as well."""
    with pytest.raises((OSError, ExceptionGroup)) as caught, DriverBoundary():
        driver(group=group)
    error = caught.value
    assert PLANTED not in exposed(error)
    assert error.__context__ is error.__cause__ is None
    assert {frame.name for frame in traceback.extract_tb(error.__traceback__)} <= {
        "test_an_error_comes_out_alone"
    }


async def hang(entered, *, password):
    """Wait as a driver does, with a password in every frame and a handler that raises again."""
    try:
        entered.set()
        await asyncio.Event().wait()
    except asyncio.CancelledError as cancelled:
        assert password
        raise asyncio.CancelledError from cancelled


async def call(entered):
    with DriverBoundary():
        await hang(entered, password=str(PLANTED))


async def test_a_cancellation_comes_out_alone():
    entered = asyncio.Event()
    task = asyncio.create_task(call(entered))
    await entered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError) as caught:
        await task
    assert PLANTED not in exposed(caught.value)


async def test_a_timeout_around_the_call_shows_nothing():
    """``asyncio.timeout`` chains the cancellation to its own error."""
    entered = asyncio.Event()
    with pytest.raises(TimeoutError) as caught:
        async with asyncio.timeout(0):
            await call(entered)
    assert isinstance(caught.value.__cause__, asyncio.CancelledError)
    assert PLANTED not in exposed(caught.value)


def test_what_is_raised_afterwards_is_chained_as_usual():
    """The boundary must not suppress the context of an error for good."""
    with pytest.raises(OSError, match="refused") as caught, DriverBoundary():
        driver()
    assert not caught.value.__suppress_context__


def test_a_result_passes_through():
    with DriverBoundary():
        found = len(PLANTED)
    assert found == len(PLANTED)
