"""The files of a jsonl+age store: a base, and one segment for each write since the base was made.

A write atomically adds one segment. When a run is finished, and when the segments have grown, they are
compacted into a new base, which replaces the old one atomically and names the segments it already contains.
Writers take turns under a lock that dies with its process;
readers take none. Nothing here awaits.
"""

import hmac
from collections.abc import Callable, Collection, Generator, Iterator
from contextlib import closing, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TypeVar

import msgspec
from msgspec.structs import replace

from flowmate_async.errors import CheckpointError, StoreError
from flowmate_async.redaction import shown_path
from flowmate_async.stores.age.files import Identity, WrongKeyError, identity_of, read_lines, write_lines
from flowmate_async.stores.age.index import Index
from flowmate_async.stores.age.lines import (
    Fingerprints,
    Line,
    SecretLine,
    StoreLine,
    decode_line,
    encode_line,
    fingerprints_of,
)
from flowmate_async.stores.base import RecordKey
from flowmate_async.stores.keys import StoreKey
from flowmate_async.stores.run_lock import RunLock
from flowmate_async.stores.sealed.meta import new_meta
from flowmate_async.stores.sealed.sealing import key_check
from flowmate_async.system.private_files import require_private

T = TypeVar("T")
Planner = Callable[[Index], tuple[list[Line], T]]

FORMAT = 1
"""The format this version writes."""

_LARGEST_SEGMENTS = 32 * 1024 * 1024
_WAIT_SECONDS = 60.0
_TRIES = 5


class _Signature(msgspec.Struct, frozen=True):
    """Distinguishes one base from the next."""

    number: int
    size: int
    changed_at: int


class AgeFolder:
    """A base, its segments, and an index of both.

    Args:
        path: the base; segments are in a folder beside it.
        keys: the store's key, which is the age identity, and optionally another key that may be its key.
    """

    def __init__(self, path: Path, *keys: StoreKey) -> None:
        self.path = path
        self.segments: Path = Path(f"{path}.segments")
        self.index: Index = Index()
        self.key: StoreKey = keys[0]
        self._keys = keys
        self._identity: Identity = identity_of(self.key)
        self._base: _Signature | None = None
        self._last = 0

    def open(self, *, create: bool) -> None:
        """Read the existing files, or make them.

        Raises:
            StoreError: missing, another key, a newer version, not private, or damaged.
        """
        if not self.path.exists():
            if not create:
                raise StoreError(f"there is no store {shown_path(self.path)}", advice="Check the store's URL")
            with self._writing():
                if not self.path.exists():
                    self._make()
        require_private(self.path, what="the store", follow_symlinks=False, error=StoreError)
        self.refresh()
        self._check(self.index.store)

    def refresh(self) -> None:
        """Read what other processes have written since."""
        for _ in range(_TRIES):
            with suppress(FileNotFoundError):  # compacted away by another process: look again
                self._take_in()
                return
        raise StoreError(
            f"the store {shown_path(self.path)} is being rewritten all the time", advice="Try again"
        )

    def commit(self, plan: Planner[T], *, compact: bool = False) -> T:
        """Write the lines of a plan as one segment. The plan sees all earlier writes.

        Args:
            plan: from the index to lines and a result.
            compact: always compact afterwards, not only when the segments have grown.

        Raises:
            StoreError: nothing was written; or it was written but not compacted, which does no harm.
        """
        with self._writing():
            self.refresh()
            lines, result = plan(self.index)
            if lines:
                self._append(lines)
                self._compact(only_when_large=not compact)
            return result

    def find(self, username: str, secret_id: str) -> SecretLine | None:
        """Return the line of one credential. This scans the credential's file."""
        for _ in range(_TRIES):
            self.refresh()
            entry = self.index.find(username, secret_id)
            if entry is None:
                return None
            found = None
            with suppress(FileNotFoundError):
                for line in self._secrets(entry.file):
                    if (line.username, line.secret_id) == (username, secret_id):
                        found = line  # the last one counts
                        if entry.file == 0:
                            break
                return found
        raise StoreError(
            f"the store {shown_path(self.path)} is being rewritten all the time", advice="Try again"
        )

    def newest(self, places: Collection[RecordKey]) -> dict[RecordKey, SecretLine]:
        """Return the lines of those of these credentials that are stored. Call it within a plan."""
        files = {entry.file for place in places if (entry := self.index.find(*place)) is not None}
        found: dict[RecordKey, SecretLine] = {}
        for line in (line for file in sorted(files) for line in self._secrets(file)):
            if (place := (line.username, line.secret_id)) in places:
                found[place] = line  # the last one counts
        return found

    def secrets(self) -> Iterator[SecretLine]:
        """Yield every credential's line in order, as of now. Close the iterator if you stop early.

        Nothing is written or locked. Lines from segments are held in memory meanwhile.
        """
        for _ in range(_TRIES):
            with suppress(FileNotFoundError):  # compacted away by another process: look again
                self.refresh()
                before = self._base
                lines = self._merged()
                first = next(lines, None)  # the file is open from here on, even if another one replaces it
                if self._signature() == before:
                    break
                lines.close()
        else:
            raise StoreError(
                f"the store {shown_path(self.path)} is being rewritten all the time", advice="Try again"
            )
        if first is not None:
            yield first
            yield from lines

    def rewrite(
        self, key: StoreKey, recast: Callable[[Fingerprints, Fingerprints, SecretLine], SecretLine]
    ) -> bool:
        """Rewrite the whole store for another key. Return whether it had a different one.

        Args:
            key: the new key.
            recast: makes a credential's line, genuine by the first fingerprints, genuine by the second.
        """
        with self._writing():
            self.refresh()
            if key == self.key:
                return False
            self._compact()
            store = self.index.store
            both = fingerprints_of(store, self.key), fingerprints_of(store, key)
            store = replace(store, key_check=key_check(key, store_id=store.store_id).hex())
            write_lines(self.path, self._base_lines(store, partial(recast, *both)), identity_of(key))
            self._keys, self._base = (key, *self._keys), None
            self.refresh()
            return True

    def _make(self) -> None:
        made = new_meta(self.key)
        line = StoreLine(format=FORMAT, store_id=made.store_id, key_check=made.key_check.hex())
        write_lines(self.path, [encode_line(line)], self._identity)

    def _check(self, store: StoreLine) -> None:
        if store.format > FORMAT:
            raise StoreError(
                f"the store {shown_path(self.path)} has format {store.format}, this version knows {FORMAT}",
                advice="Upgrade flowmate-async",
            )
        if not hmac.compare_digest(store.key_check, key_check(self.key, store_id=store.store_id).hex()):
            raise StoreError(
                f"the store {shown_path(self.path)} was tampered with", advice="Restore a backup"
            )

    def _take_in(self) -> None:
        signature = self._signature()
        if signature != self._base:
            self._take_in_base()
            self._base, self._last = signature, self.index.store.through
        for number in self._numbers():
            if number > self._last:
                _apply(self.index, self._segment(number), self._identity, file=number)
                self._last = number

    def _take_in_base(self) -> None:
        """Read the base with its current key."""
        for key in (self.key, *self._keys):
            index, identity = Index(), identity_of(key)
            try:
                _apply(index, self.path, identity, file=0)
            except WrongKeyError as failure:
                refusal = failure
            else:
                self.index, self.key, self._identity = index, key, identity
                return
        raise refusal

    def _append(self, lines: list[Line]) -> None:
        self.segments.mkdir(mode=0o700, exist_ok=True)
        number = self._last + 1
        write_lines(self._segment(number), map(encode_line, lines), self._identity)
        for line in lines:
            self.index.apply(line, file=number)
        self._last = number

    def _compact(self, *, only_when_large: bool = False) -> None:
        numbers = self._numbers()
        if only_when_large and sum(self._segment(one).stat().st_size for one in numbers) < _LARGEST_SEGMENTS:
            return
        if numbers:
            store = replace(self.index.store, through=self._last)
            write_lines(self.path, self._base_lines(store), self._identity)
            self._base = None
            self.refresh()
        self._clear()

    def _clear(self) -> None:
        """Remove the segments that the base contains, including leftovers of a crash and partial segments."""
        through = self.index.store.through
        for path in (*self.segments.glob("[0-9]*.age"), *self.segments.glob(".*.new")):
            if path.suffix == ".new" or int(path.stem) <= through:
                path.unlink(missing_ok=True)
        with suppress(OSError):
            self.segments.rmdir()

    def _base_lines(
        self, store: StoreLine, recast: Callable[[SecretLine], SecretLine] = lambda line: line
    ) -> Iterator[bytes]:
        for line in self.index.lines():
            yield encode_line(store if isinstance(line, StoreLine) else line)
        for secret in self._merged():
            yield encode_line(recast(secret))

    def _merged(self) -> Generator[SecretLine, None, None]:
        """Yield the newest line of every credential, with the notes about it."""
        newest = self._newest_of_segments()
        with closing(self._secrets(0)) as of_base:
            for username, secret_id, entry in list(self.index.places()):
                place = (username, secret_id)
                line = newest.pop(place) if entry.file else _skip_to(of_base, place)
                yield replace(line, missing_run=entry.missing_run, removed_at=entry.removed_at)

    def _newest_of_segments(self) -> dict[RecordKey, SecretLine]:
        """Return the credentials that are in segments."""
        lines = (line for number in self._numbers() for line in self._secrets(number))
        return {(line.username, line.secret_id): line for line in lines}

    def _secrets(self, file: int) -> Generator[SecretLine, None, None]:
        path = self._segment(file) if file else self.path
        with closing(read_lines(path, self._identity)) as lines:
            for data in lines:
                line = decode_line(data)
                if isinstance(line, SecretLine):
                    yield line

    def _segment(self, number: int) -> Path:
        return self.segments / f"{number:08}.age"

    def _numbers(self) -> list[int]:
        """Return the segments that the base does not contain yet, in order."""
        through = self.index.store.through
        numbers = sorted(int(path.stem) for path in self.segments.glob("[0-9]*.age"))
        return [number for number in numbers if number > through]

    def _signature(self) -> _Signature:
        found = self.path.stat()
        return _Signature(found.st_ino, found.st_size, found.st_mtime_ns)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        lock = RunLock(self.path, suffix=".writing", wait_seconds=_WAIT_SECONDS)
        try:
            lock.acquire()
        except CheckpointError:
            reason = f"the store {shown_path(self.path)} has been written by another process for a minute"
        else:
            reason = ""
        if reason:
            raise StoreError(reason, advice="Wait for it to end")
        try:
            yield
        finally:
            lock.release()


def _apply(index: Index, path: Path, identity: Identity, *, file: int) -> None:
    """Apply a whole file. Close its decryption explicitly, even if a line is refused."""
    with closing(read_lines(path, identity)) as lines:
        for data in lines:
            index.apply(decode_line(data), file=file)


def _skip_to(lines: Iterator[SecretLine], place: RecordKey) -> SecretLine:
    for line in lines:
        if (line.username, line.secret_id) == place:
            return line
    raise StoreError(
        "the store has lost a credential that it had, so it is damaged", advice="Restore a backup"
    )
