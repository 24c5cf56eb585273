"""Opens the store behind a URL: the built-in schemes, and entry points that add more.

A driver is imported only when its scheme is used. Nothing here touches a store; entering it does.
"""

from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points
from typing import cast

from flowmate_async.errors import ConfigurationError
from flowmate_async.redaction import Redacted, one_line
from flowmate_async.stores.base import Store
from flowmate_async.stores.keys import StoreKey
from flowmate_async.stores.url import StoreUrl

ENTRY_POINTS = "flowmate_async.stores"

StoreFactory = Callable[..., Store]
"""Called as ``factory(url, key=key)``; returns a store that is not open yet."""


class OpenOptions(Redacted, frozen=True):
    """The arguments of :func:`open_store`."""

    url: StoreUrl
    key: StoreKey | None
    other_key: StoreKey | None
    create: bool


def open_store(
    url: str | StoreUrl,
    *,
    key: StoreKey | None = None,
    other_key: StoreKey | None = None,
    create: bool = True,
) -> Store:
    """Return the store behind a URL; enter it with ``async with`` to open it.

    Args:
        url: ``memory:``, ``sqlite:///relative.db``, ``sqlite:////absolute.db``,
            ``postgresql://user@host/database`` (or ``postgres://``), ``jsonl+age:///relative.age``,
            ``openbao://host/mount/path``, ``awssm://region/prefix``, or a URL of a scheme that an entry
            point in the group ``flowmate_async.stores`` provides.
        key: the key of a sealed store, see :func:`load_key`.
        other_key: another key that the store may have during a key change.
        create: create a missing store; otherwise entering it raises ``StoreError``. Stores of entry points
            may differ.

    Raises:
        ConfigurationError: unknown scheme, a URL that is invalid or holds a credential, or a key that is
            missing or not a :class:`StoreKey`.
    """
    url = StoreUrl.of(url)
    kinds = {type(one).__name__ for one in (key, other_key) if not isinstance(one, StoreKey | None)}
    if kinds:
        key = other_key = None  # a key as text must not stay a local of a frame that raises
        raise ConfigurationError(
            f"the store's key is a StoreKey, not {kinds.pop()}",
            advice="Make one with StoreKey.parse(text) or read_key_file(path)",
        )
    if url.has_credential:
        raise ConfigurationError(
            "the store's URL holds a credential, and URLs end up in logs and process lists",
            advice="Leave it out of the URL; the store's documentation says where its driver looks for it",
        )
    if url.scheme in _BUILT_IN:
        return _BUILT_IN[url.scheme](OpenOptions(url, key, other_key, create))
    return _registered(url.scheme)(url.text, key=key)


def _registered(scheme: str) -> StoreFactory:
    for entry in entry_points(group=ENTRY_POINTS, name=scheme):
        return _loaded(entry)
    known = sorted({*_BUILT_IN, *(entry.name for entry in entry_points(group=ENTRY_POINTS))})
    advice = f"Known schemes: {', '.join(known)}"
    if not scheme:
        raise ConfigurationError(
            "the store is not named by a URL", advice=f"Write sqlite:///relative.db for a file. {advice}"
        )
    raise ConfigurationError(f"no store has the scheme '{one_line(scheme, limit=40)}'", advice=advice)


def _loaded(entry: EntryPoint) -> StoreFactory:
    try:
        return cast("StoreFactory", entry.load())
    except ImportError as error:
        reason = one_line(str(error))
    raise ConfigurationError(
        f"the store for {entry.name} cannot be loaded: {reason}",
        advice="Install the extra that brings its driver",
    )


def _memory(options: OpenOptions) -> Store:
    from flowmate_async.stores.memory import MemoryStore  # noqa: PLC0415 - by scheme

    if options.url.text.partition(":")[2]:
        raise ConfigurationError("a store in memory has no name", advice="Write memory:")
    return MemoryStore()


def _sqlite(options: OpenOptions) -> Store:
    from flowmate_async.stores.sqlite.files import path_of_url  # noqa: PLC0415 - by scheme
    from flowmate_async.stores.sqlite.store import SqliteStore  # noqa: PLC0415 - by scheme

    path = path_of_url(options.url)
    return SqliteStore(
        path, key=_required(options, "sqlite"), other_key=options.other_key, create=options.create
    )


def _postgres(options: OpenOptions) -> Store:
    from flowmate_async.stores.postgres.store import postgres_store  # noqa: PLC0415 - by scheme

    return postgres_store(
        options.url, key=_required(options, "PostgreSQL"), other_key=options.other_key, create=options.create
    )


def _required(options: OpenOptions, kind: str) -> StoreKey:
    if options.key is None:
        raise ConfigurationError(f"a {kind} store is sealed and needs a key", advice="Pass key=load_key(…)")
    return options.key


def _age(options: OpenOptions) -> Store:
    from flowmate_async.stores.age.store import age_store  # noqa: PLC0415 - by scheme

    return age_store(
        options.url, key=_required(options, "jsonl+age"), other_key=options.other_key, create=options.create
    )


def _openbao(options: OpenOptions) -> Store:
    from flowmate_async.stores.openbao.store import openbao_store  # noqa: PLC0415 - by scheme

    return openbao_store(options.url, create=options.create)


def _aws(options: OpenOptions) -> Store:
    from flowmate_async.stores.aws.store import aws_store  # noqa: PLC0415 - by scheme

    return aws_store(options.url, create=options.create)


_BUILT_IN: dict[str, Callable[[OpenOptions], Store]] = {
    "awssm": _aws,
    "jsonl+age": _age,
    "memory": _memory,
    "openbao": _openbao,
    "postgresql": _postgres,
    "sqlite": _sqlite,
}
_UNSEALED = frozenset({"awssm", "memory", "openbao"})


def needs_key(url: str | StoreUrl) -> bool:
    """Return whether a store key is needed for the store behind a URL; stores of entry points may need one.

    Args:
        url: the store's, as for :func:`open_store`.
    """
    return StoreUrl.of(url).scheme not in _UNSEALED
