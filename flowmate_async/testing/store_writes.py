"""Helpers with which the laws of a store write and read; for tests only."""

from collections.abc import AsyncIterator, Callable
from typing import TypeVar

from msgspec.structs import replace

from flowmate_async.stores.base import Checkpoint, Run, Store, UserWrite
from flowmate_async.testing.samples import api_key
from flowmate_async.values.secrets import Secret

__all__ = [
    "ORIGIN",
    "OpenStore",
    "collect",
    "failed",
    "listing",
    "named",
    "places",
    "synced",
    "write",
]

OpenStore = Callable[[], Store]
T = TypeVar("T")

ORIGIN = "https://flowmate.example"


def synced(username: str, *secrets: Secret, at: float = 10.0) -> UserWrite:
    """Return what a sync writes for a synced user."""
    checkpoint = Checkpoint(username=username, status="synced", secrets=len(secrets), requests=2, at=at)
    return UserWrite(checkpoint=checkpoint, secrets=secrets)


def listing(username: str, *secrets: Secret) -> UserWrite:
    """Return the same with a listing that is proven complete."""
    return replace(synced(username, *secrets), listed=tuple(secret.id for secret in secrets))


def failed(username: str, error: str = "masked_secret", *secrets: Secret) -> UserWrite:
    """Return what a sync writes for a failed user."""
    checkpoint = Checkpoint(
        username=username,
        status="failed",
        secrets=len(secrets),
        requests=1,
        seconds=0.5,
        at=11.0,
        error=error,
        message="it went wrong",
        listing_proven=False,
    )
    return UserWrite(checkpoint=checkpoint, secrets=secrets)


async def collect(source: AsyncIterator[T]) -> list[T]:
    """Return everything an iterator yields."""
    return [item async for item in source]


def named(*secret_ids: str) -> tuple[Secret, ...]:
    """Return secrets with these ids."""
    return tuple(api_key(secret_id) for secret_id in secret_ids)


async def places(store: Store) -> list[str]:
    """Return what is stored, each as user and id."""
    return [f"{item.username} {item.secret_id}" async for item in store.items()]


async def write(store: Store, *users: UserWrite) -> Run:
    """Bind, begin a run and write in it."""
    await store.bind(ORIGIN)
    run = await store.begin_run(at=1.0)
    await store.write(run, users)
    return run
