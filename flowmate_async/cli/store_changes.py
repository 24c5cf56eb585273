"""``flowmate store rekey``, ``upgrade``, ``migrate``, ``import``: commands that change a store."""

import os
import sys
import time
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from flowmate_async.cli.exits import Exit, print_data, print_error, print_json, print_status
from flowmate_async.cli.options import StoreAlone, StoreChange
from flowmate_async.cli.progress import counting
from flowmate_async.errors import ConfigurationError
from flowmate_async.redaction import one_line, shown_path
from flowmate_async.stores import Store, StoreKey, load_key, needs_key, open_store, read_key_file
from flowmate_async.stores.sealed.rekeying import Rekeyable, Rekeyed
from flowmate_async.stores.transfer.copying import (
    Copied,
    copy_store,
    count_items,
    is_copy_of,
    is_empty,
    require_target,
)
from flowmate_async.stores.transfer.exports import Export, read_export
from flowmate_async.stores.transfer.importing import import_export
from flowmate_async.stores.upgrading import Upgradable
from flowmate_async.values.settings import DEFAULT_BASE_URL, checked_base_url

_STDIN = Path("-")
_OTHERS = 0o077


async def rekey(new_key_file: Path, /, *, store: StoreChange = StoreChange()) -> Exit:
    """Give a store a new key; run again to go on after an interruption.

    Meanwhile the new key opens all of the store. Processes that have both keys
    (FLOWMATE_STORE_OTHER_KEY_FILE) go on throughout.

    Examples:
        flowmate store rekey new.key --store sqlite:///credentials.db --store-key-file store.key

    Args:
        new_key_file: A private file with the new key, as keygen makes it.
    """
    key = read_key_file(new_key_file)
    async with store.open(other_key=key) as opened:
        if not isinstance(opened, Rekeyable):
            raise ConfigurationError("this store has no key of its own", advice="Its service keeps the keys")
        async with opened.exclusive_run():
            done = await _rekeyed(opened, key, total=await count_items(opened))
    for username, secret_id in done.damaged:
        print_error(f"damaged: user '{username}', secret '{secret_id}'; sync this user again")
    if done.left:
        print_error(f"still sealed with the old key: {done.left}")
    already = f", {done.already:,} were so already" if done.already else ""
    print_data(
        f"{done.resealed:,} credentials sealed with key {key.key_id}{already}, {len(done.damaged):,} damaged"
    )
    print_status("From now on only the new key opens the store; backups made before need the old one.")
    return Exit.SOME_FAILED if done.damaged or done.left else Exit.OK


async def _rekeyed(opened: Rekeyable, key: StoreKey, *, total: int) -> Rekeyed:
    with counting("sealing") as counted:
        counted(0, total)
        done = await opened.rekey(key, on_progress=lambda checked: counted(checked, total))
        counted(total, total)
    return done


async def upgrade(
    *,
    backup: Annotated[
        str | None,
        Parameter(help="An empty store for a copy of the credentials, as sqlite:///before.db."),
    ] = None,
    no_backup: Annotated[
        bool, Parameter(negative=(), help="You have a backup already, or need none.")
    ] = False,
    store: StoreChange = StoreChange(),
) -> Exit:
    """Bring a store of an earlier version up to date, after a backup; end all that use it first.

    A sqlite store is copied as it is, to a file beside it. For others name a store with --backup, or say
    --no-backup if your database's own backup is at hand.

    Examples:
        flowmate store upgrade --store sqlite:///credentials.db
        flowmate store upgrade --store postgresql://me@db.example/app --backup sqlite:///before.db
    """
    async with store.open() as opened:
        if not isinstance(opened, Upgradable):
            print_data("The store has only one format, so it is up to date.")
            return Exit.OK
        if backup is None and not no_backup and not opened.makes_backups:
            raise ConfigurationError(
                "the upgrade of this store keeps no backup",
                advice="Name a store with --backup, or pass --no-backup",
            )
        async with opened.exclusive_run():
            if backup is not None:
                saved = await _backed_up(opened, backup, _key_of(backup, None, store), url=store.store or "")
                print_status(f"Backed up {saved.secrets:,} credentials to {one_line(backup)}")
            done = await opened.upgrade()
    if done.backup is not None:
        print_status(f"The store as it was is in {shown_path(done.backup)}; remove it once all is well.")
    if done.before == done.after:
        print_data(f"The store has format {done.after} already.")
    else:
        print_data(f"The store was brought from format {done.before} to format {done.after}.")
    return Exit.OK


async def migrate(
    to: str,
    /,
    *,
    to_key_file: Annotated[
        Path | None, Parameter(help="A private file with the other store's key; else it has the same.")
    ] = None,
    backup: Annotated[
        str | None, Parameter(help="An empty store for what the other one holds; needed if it holds any.")
    ] = None,
    store: StoreChange = StoreChange(),
) -> Exit:
    """Copy every credential of a store into another one, and compare both; the store itself stays as it is.

    Run it again to go on after an interruption.

    Examples:
        flowmate store migrate postgresql://me@db.example/app --store sqlite:///credentials.db
        flowmate store migrate sqlite:///new.db --to-key-file new.key --backup sqlite:///before.db

    Args:
        to: The other store's URL.
    """
    if to in (store.store, backup):
        raise ConfigurationError("a store cannot be copied into itself", advice="Name another store")
    key = _key_of(to, to_key_file, store)
    async with (
        store.open() as source,
        open_store(to, key=key) as target,
        source.exclusive_run(),
        target.exclusive_run(),
    ):
        if await is_copy_of(target, store.store or "", finished=False):
            print_status("Going on with the copy that was interrupted")
        elif not await is_empty(target):
            copied = await is_copy_of(target, store.store or "", finished=True)
            require_target(empty=False, backup=backup is not None, copied=copied)
            saved = await _backed_up(target, str(backup), key, url=to)
            print_status(
                f"Backed up {saved.secrets:,} credentials of the other store to {one_line(str(backup))}"
            )
        with counting("copying") as counted:
            done = await copy_store(
                source, target, at=time.time(), source_url=store.store or "", on_progress=counted
            )
    print_data(
        f"{done.secrets:,} credentials of {done.users:,} users copied and compared: "
        f"{done.changed:,} were written, {done.secrets - done.changed:,} were there already"
    )
    return Exit.OK


async def import_(
    file: Path,
    /,
    *,
    base_url: Annotated[
        str, Parameter(env_var="FLOWMATE_BASE_URL", help="The FlowMate that the credentials are of.")
    ] = DEFAULT_BASE_URL,
    replace: Annotated[
        bool, Parameter(negative=(), help="Also replace credentials that the store has already.")
    ] = False,
    dry_run: Annotated[bool, Parameter(negative=(), help="Check the file, and store nothing.")] = False,
    json: Annotated[bool, Parameter(negative=(), help="Print the totals as JSON.")] = False,
    store: StoreChange = StoreChange(),
) -> Exit:
    """Store the credentials of an export that your own code wrote, as CSV or JSON.

    A record names username, id, type and value; in CSV the fields of the value are columns like value.key.
    Every record is checked before the first is stored; masked values are refused.

    Examples:
        flowmate store import export.csv --store sqlite:///credentials.db
        flowmate store import export.json --dry-run

    Args:
        file: The export, .csv or .json or .jsonl; - for JSON on standard input.
    """
    origin = checked_base_url(base_url)
    exported = read_export(_read(file), kind="csv" if file.suffix.lower() == ".csv" else "json")
    if dry_run:
        users = len({one.username for one in exported})
        print_data(f"{len(exported):,} credentials of {users:,} users could be imported")
        return Exit.OK
    async with store.open(create=True) as opened, opened.exclusive_run():
        done = await import_export(exported, opened, origin=origin, at=time.time(), replace=replace)
    if json:
        print_json(done)
    else:
        print_data(
            f"{done.written:,} credentials of {done.users:,} users imported, {done.unchanged:,} unchanged, "
            f"{done.kept:,} kept as the store had them"
        )
    if file != _STDIN:
        print_status(f"{file} holds credentials in clear: remove it, and every copy of it.")
    return Exit.OK


async def _backed_up(target: Store, backup: str, key: StoreKey | None, *, url: str) -> Copied:
    async with open_store(backup, key=key) as kept:
        usable = await is_empty(kept) or await is_copy_of(kept, url, finished=True)
        require_target(empty=usable, backup=False)
        return await copy_store(target, kept, at=time.time(), source_url=url)


def _key_of(url: str, key_file: Path | None, store: StoreAlone) -> StoreKey | None:
    if not needs_key(url):
        return None
    if key_file is not None:
        return read_key_file(key_file)
    return load_key(os.environ, store_url=url, key_file=store.store_key_file)


def _read(file: Path) -> Export:
    try:
        if file == _STDIN:
            return Export(sys.stdin.buffer.read())
        if file.stat().st_mode & _OTHERS:
            print_status(f"{file} can be read by other users of this machine: chmod 600 {file}")
        return Export(file.read_bytes())
    except OSError as error:
        reason = error.strerror or "it cannot be opened"
    raise ConfigurationError(f"the export {file} cannot be read: {reason}", advice="Check the path")
