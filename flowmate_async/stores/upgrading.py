"""Upgrade of a store to the current format: only on request and after a backup."""

from pathlib import Path
from typing import Protocol, runtime_checkable

import msgspec

from flowmate_async.errors import StoreError


class Upgraded(msgspec.Struct, frozen=True, kw_only=True):
    """The result of an upgrade.

    Attributes:
        before: the store's previous format.
        after: the store's new format.
        backup: the copy of the store before the upgrade; ``None`` when the store makes none.
    """

    before: int
    after: int
    backup: Path | None = None


@runtime_checkable
class Upgradable(Protocol):
    """A store whose format may be older than this version's.

    Attributes:
        makes_backups: whether an upgrade first copies the store.
    """

    makes_backups: bool

    async def upgrade(self) -> Upgraded:
        """Upgrade the store. Hold the run lock, and stop every other process that uses the store first.

        Raises:
            StoreError: the backup cannot be made, or the store cannot be written; it stays unchanged.
        """
        ...


def require_format(found: int, current: int, *, where: str, url: str) -> None:
    """Refuse to change a store of an older format.

    Args:
        found: the store's format.
        current: this version's format.
        where: the store, for messages.
        url: its URL, for the advice.

    Raises:
        StoreError: the format is older.
    """
    if found != current:
        raise StoreError(
            f"the store {where} has format {found}, and this version writes format {current}",
            advice=f"It can be read as it is. To write it, run: flowmate store upgrade --store '{url}'",
        )
