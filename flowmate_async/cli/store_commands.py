"""``flowmate store``: inspect a store, and create its key."""

from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from flowmate_async.cli.exits import Exit, print_data, print_error, print_json, print_status
from flowmate_async.cli.options import StoreAlone
from flowmate_async.cli.read_commands import rendered
from flowmate_async.cli.store_changes import import_, migrate, rekey, upgrade
from flowmate_async.errors import SecretNotFoundError
from flowmate_async.redaction import one_line
from flowmate_async.stores import StoredItem, write_key_file
from flowmate_async.stores.transfer.copying import unfinished_copy

store_app: App = App(name="store", help="Look into a store of credentials, or change it.")
store_app.command(rekey)
store_app.command(upgrade)
store_app.command(migrate)
store_app.command(import_, name="import")


@store_app.command(name="list")
async def list_(
    username: str | None = None,
    /,
    *,
    json: Annotated[bool, Parameter(negative=(), help="One JSON object a line.")] = False,
    store: StoreAlone = StoreAlone(),
) -> Exit:
    """List what is stored, of one user or all, without opening any credential.

    Examples:
        flowmate store list
        flowmate store list abc123 --json

    Args:
        username: The user.
    """
    async with store.open() as opened:
        async for item in opened.items(username):
            if json:
                print_json(item)
            else:
                print_data(one_line(_shown(item)))
    return Exit.OK


def _shown(item: StoredItem) -> str:
    text = f"{item.username}  {item.secret_id}  {item.type:<22}  {item.expires_at or '-'}"
    return text if item.removed_at is None else f"{text}  removed"


@store_app.command
async def get(
    username: str,
    secret_id: str,
    /,
    *,
    reveal: Annotated[bool, Parameter(negative=(), help="Show the credential in clear.")] = False,
    store: StoreAlone = StoreAlone(),
) -> Exit:
    """Print one stored secret as JSON; its values only with --reveal.

    Examples:
        flowmate store get abc123 66761aedcf268b4d68470e27 --reveal

    Args:
        username: The user.
        secret_id: The secret's id.
    """
    async with store.open() as opened:
        secret = await opened.get(username, secret_id)
    if secret is None:
        raise SecretNotFoundError("the store has no such secret", username=username, secret_id=secret_id)
    print_data(rendered(secret, reveal=reveal))
    return Exit.OK


@store_app.command
async def verify(*, store: StoreAlone = StoreAlone()) -> Exit:
    """Open every stored credential and say which ones do not open, and whether the store is a partial copy.

    Examples:
        flowmate store verify --store sqlite:///credentials.db --store-key-file store.key
    """
    async with store.open() as opened:
        found = await opened.verify()
        incomplete = await unfinished_copy(opened) is not None
    for username, secret_id in found.damaged:
        print_error(f"damaged: user '{username}', secret '{secret_id}'; sync this user again, or remove it")
    if incomplete:
        print_error("this store is an incomplete copy; run `flowmate store migrate` again, or sync into it")
    print_data(f"{found.intact} credentials intact, {len(found.damaged)} damaged")
    return Exit.SOME_FAILED if found.damaged or incomplete else Exit.OK


@store_app.command
async def keygen(
    path: Path,
    /,
    *,
    age: Annotated[
        bool, Parameter(negative=(), help="Write it as an age identity, for a jsonl+age store.")
    ] = False,
) -> Exit:
    """Make a new key for a store, in a file that only you may read.

    Examples:
        flowmate store keygen store.key

    Args:
        path: The file; must not exist yet.
    """
    write_key_file(path, age=age)
    print_status(f"Wrote a new key to {path}. Keep a copy elsewhere: without it the store cannot be opened.")
    return Exit.OK
