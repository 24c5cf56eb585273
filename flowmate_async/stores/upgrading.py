"""Bringing a store of an older version up to date: never by itself, always on request and after a backup."""

from pathlib import Path
from typing import Protocol, runtime_checkable

import msgspec

from flowmate_async.errors import StoreError


class Upgraded(msgspec.Struct, frozen=True, kw_only=True):
    """What an upgrade did.

    Attributes:
        before: the format that the store had.
        after: the format that it has now.
        backup: the copy of the store as it was; ``None`` when the store keeps none.
    """

    before: int
    after: int
    backup: Path | None = None


@runtime_checkable
class Upgradable(Protocol):
    """A store whose format may be older than this version's.

    Attributes:
        makes_backups: whether an upgrade first copies the store as it is.
    """

    makes_backups: bool

    async def upgrade(self) -> Upgraded:
        """Bring the store up to date; hold the run lock, and end every other process that uses the store.

        Raises:
            StoreError: the backup cannot be made, or the store cannot be written; it stays as it was.
        """
        ...


def require_format(found: int, current: int, *, where: str, url: str) -> None:
    """Refuse to change a store of an older format.

    Args:
        found: the store's format.
        current: the format that this version writes.
        where: the store, for messages.
        url: its URL, for the advice.

    Raises:
        StoreError: it is older.
    """
    if found != current:
        raise StoreError(
            f"the store {where} has format {found}, and this version writes format {current}",
            advice=f"It can be read as it is. To write it, run: flowmate store upgrade --store '{url}'",
        )
