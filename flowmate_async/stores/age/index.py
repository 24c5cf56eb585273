"""The index of a jsonl+age store: built from its lines, it answers everything except credential values.

About half a kilobyte of memory for each credential and each checkpoint. Nothing here reads or writes files.
"""

import os
from collections.abc import Iterator, Mapping, Sequence

from msgspec.structs import replace

from flowmate_async.errors import StoreError
from flowmate_async.health.records import HealthRecord, Notice
from flowmate_async.stores.age.lines import (
    CheckpointLine,
    DeliveredLine,
    Entry,
    Fingerprints,
    GoneLine,
    HealthLine,
    Line,
    NoteLine,
    NoticeLine,
    RunLine,
    SecretLine,
    StoreLine,
    entry_of,
)
from flowmate_async.stores.base import (
    Checkpoint,
    Missing,
    RecordKey,
    Removal,
    Run,
    RunTotals,
    UserWrite,
    Written,
    is_proven,
    no_such_run,
    totals_of,
)
from flowmate_async.stores.health import health_changes


class Index:
    """The state built from the lines read so far."""

    def __init__(self) -> None:
        self._store: StoreLine | None = None
        self.runs: dict[str, Run] = {}
        self.checkpoints: dict[str, dict[str, Checkpoint]] = {}
        self.entries: dict[str, dict[str, Entry]] = {}
        self.health: dict[str, dict[str, HealthRecord]] = {}
        self.outbox: dict[str, Notice] = {}

    @property
    def store(self) -> StoreLine:
        """The store's header.

        Raises:
            StoreError: its first line is missing.
        """
        if self._store is None:
            raise StoreError("the store has lost its first line, so it is damaged", advice="Restore a backup")
        return self._store

    def apply(self, line: Line, *, file: int) -> None:
        """Apply a line of a segment, or of the base when ``file`` is 0."""
        match line:
            case StoreLine():
                self._store = line
            case RunLine(run=run):
                self._apply_run(run)
            case CheckpointLine(run_id=run_id, checkpoint=checkpoint):
                self.checkpoints.setdefault(run_id, {})[checkpoint.username] = checkpoint
            case SecretLine(username=username, secret_id=secret_id):
                self.entries.setdefault(username, {})[secret_id] = entry_of(line, file)
            case NoteLine():
                self._apply_note(line)
            case GoneLine(username=username, secret_id=secret_id):
                self.entries.get(username, {}).pop(secret_id, None)
            case HealthLine() | NoticeLine() | DeliveredLine():
                self._apply_health(line)

    def _apply_health(self, line: HealthLine | NoticeLine | DeliveredLine) -> None:
        match line:
            case HealthLine(username=username, secret_id=secret_id, record=None):
                self.health.get(username, {}).pop(secret_id, None)
            case HealthLine(username=username, secret_id=secret_id, record=record) if record is not None:
                self.health.setdefault(username, {})[secret_id] = record
            case NoticeLine(notice=notice):
                self.outbox.setdefault(notice.id, notice)
            case DeliveredLine(ids=ids):
                for one in ids:
                    self.outbox.pop(one, None)

    def _apply_note(self, note: NoteLine) -> None:
        entry = self.find(note.username, note.secret_id)
        if entry is not None:
            noted = replace(entry, missing_run=note.missing_run, removed_at=note.removed_at)
            self.entries[note.username][note.secret_id] = noted

    def _apply_run(self, run: Run) -> None:
        if run.id not in self.runs:
            # Only the last run's checkpoints of a selection are kept; otherwise they would grow forever.
            for old in [old for old in self.runs.values() if old.selection == run.selection][:-1]:
                self.checkpoints.pop(old.id, None)
        self.runs[run.id] = run

    def lines(self) -> Iterator[Line]:
        """Yield every line except credentials, in an order in which they can be applied."""
        yield self.store
        for run in self.runs.values():
            yield RunLine(run=run)
        for run_id, checkpoints in self.checkpoints.items():
            for checkpoint in checkpoints.values():
                yield CheckpointLine(run_id=run_id, checkpoint=checkpoint)
        for record in self.health_records():
            yield HealthLine(username=record.username, secret_id=record.secret_id, record=record)
        for notice in self.outbox.values():
            yield NoticeLine(notice=notice)

    def health_records(self, username: str | None = None) -> Iterator[HealthRecord]:
        """Yield every health record, in order."""
        for name in sorted(self.health) if username is None else [username]:
            for _, record in sorted(self.health.get(name, {}).items()):
                yield record

    def places(self, username: str | None = None) -> Iterator[tuple[str, str, Entry]]:
        """Yield every username, secret id and entry, in order."""
        names = sorted(self.entries) if username is None else [username]
        for name in names:
            for secret_id, entry in sorted(self.entries.get(name, {}).items()):
                yield name, secret_id, entry

    def find(self, username: str, secret_id: str) -> Entry | None:
        """Return the index entry of one credential."""
        return self.entries.get(username, {}).get(secret_id)

    def last_run(self, selection: str | None) -> Run | None:
        """Return the most recently begun run, of a selection or of any."""
        latest_first = reversed(self.runs.values())
        return next((run for run in latest_first if selection in (None, run.selection)), None)

    def of_run(self, run: Run) -> dict[str, Checkpoint]:
        """Return the checkpoints of a run."""
        return self.checkpoints.get(run.id, {})

    def seen(self, usernames: Sequence[str]) -> dict[str, str]:
        """Return the ``seen`` of these users' newest checkpoints."""
        found: dict[str, Checkpoint] = {}
        for checkpoints in self.checkpoints.values():
            for name in usernames:
                one, known = checkpoints.get(name), found.get(name)
                if one is not None and (known is None or known.at <= one.at):
                    found[name] = one
        return {name: one.seen for name, one in found.items()}

    def totals(self, run: Run) -> RunTotals:
        """Return sums over a run's checkpoints."""
        return totals_of(list(self.of_run(run).values()))

    def missing(self, run: Run) -> Missing:
        """Return what a run noted as missing, out of what it could judge."""
        gone = stored = 0
        for username, entries in self.entries.items():
            proven = is_proven(self.of_run(run).get(username))
            judged = [one for one in entries.values() if proven or one.missing_run == run.id]
            judged = [one for one in judged if one.removed_at is None]
            gone, stored = gone + sum(one.missing_run == run.id for one in judged), stored + len(judged)
        return Missing(missing=gone, stored=stored)

    def require(self, run: Run) -> Run:
        """Return the run in its current state.

        Raises:
            CheckpointError: the run does not exist.
        """
        if run.id not in self.runs:
            raise no_such_run()
        return self.runs[run.id]


def plan_begin(at: float, selection: str) -> tuple[list[Line], Run]:
    """Return the lines that begin a run."""
    run = Run(id=os.urandom(8).hex(), started_at=at, selection=selection)
    return [RunLine(run=run)], run


def plan_write(
    index: Index,
    fingerprints: Fingerprints,
    run: Run,
    batch: Sequence[UserWrite],
    renamed: Mapping[RecordKey, SecretLine],
) -> tuple[list[Line], Written]:
    """Return the lines that write whole users: changed credentials, notes and checkpoints.

    Args:
        index: what is stored.
        fingerprints: makes the lines of credentials.
        run: the run that is writing.
        batch: the users.
        renamed: the stored lines of credentials that get a new name.
    """
    index.require(run)
    lines: list[Line] = []
    drafts = {name: dict(index.entries.get(name, {})) for name in {one.checkpoint.username for one in batch}}
    changed = 0
    for user in batch:
        username, draft = user.checkpoint.username, drafts[user.checkpoint.username]
        for secret in user.secrets:
            line = fingerprints.line_of(username, secret, at=user.checkpoint.at)
            stored = draft.get(secret.id)
            if stored is None or stored.fingerprint != line.fingerprint:
                changed += 1
                lines.append(line)
                draft[secret.id] = entry_of(line, 0)
        for line in _renamed(fingerprints, user, draft, renamed):
            lines.append(line)
            draft[line.secret_id] = entry_of(line, 0)
        for note in _notes(run, user, draft):
            lines.append(note)
            draft[note.secret_id] = replace(
                draft[note.secret_id], missing_run=note.missing_run, removed_at=note.removed_at
            )
        lines.append(CheckpointLine(run_id=run.id, checkpoint=user.checkpoint))
    lines += _health_lines(index, batch, lines)
    return lines, Written(changed, sum(len(user.secrets) for user in batch) - changed)


def _health_lines(index: Index, batch: Sequence[UserWrite], lines: Sequence[Line]) -> list[HealthLine]:
    """Return the health changes that a batch makes for its users' credentials."""
    names = {user.checkpoint.username for user in batch}
    records = (record for name in names for record in index.health_records(name))
    changed = ((line.username, line.secret_id) for line in lines if isinstance(line, SecretLine))
    changes = health_changes(batch, records, changed)
    put = [HealthLine(username=one.username, secret_id=one.secret_id, record=one) for one in changes.put]
    return put + [HealthLine(username=name, secret_id=one, record=None) for name, one in changes.gone]


def _renamed(
    fingerprints: Fingerprints,
    user: UserWrite,
    draft: Mapping[str, Entry],
    stored: Mapping[RecordKey, SecretLine],
) -> Iterator[SecretLine]:
    """Yield the lines of renamed stored credentials that this batch does not replace."""
    username = user.checkpoint.username
    for secret_id, name in user.renamed.items():
        line = stored.get((username, secret_id))
        if line is None or draft[secret_id].fingerprint != line.fingerprint:
            continue
        secret = fingerprints.opened(line)
        if secret is not None:
            yield fingerprints.line_of(username, replace(secret, name=name), at=user.checkpoint.at)


def _notes(run: Run, user: UserWrite, draft: dict[str, Entry]) -> list[NoteLine]:
    username, present = user.checkpoint.username, set(user.present)
    notes = []
    for secret_id, entry in draft.items():
        if secret_id in present and (entry.missing_run is not None or entry.removed_at is not None):
            notes.append(NoteLine(username=username, secret_id=secret_id))
        elif secret_id not in present and user.listed is not None:
            notes.append(_missing_note(run, username, secret_id, entry))
    return notes


def plan_note_missing(index: Index, run: Run, usernames: Sequence[str]) -> tuple[list[Line], None]:
    """Return the lines that note all credentials of these users as missing and drop their health records."""
    index.require(run)
    notes: list[Line] = [
        _missing_note(run, username, secret_id, entry)
        for username in usernames
        for secret_id, entry in index.entries.get(username, {}).items()
    ]
    gone = (record for username in usernames for record in index.health_records(username))
    return [
        *notes,
        *(HealthLine(username=one.username, secret_id=one.secret_id, record=None) for one in gone),
    ], None


def _missing_note(run: Run, username: str, secret_id: str, entry: Entry) -> NoteLine:
    return NoteLine(username=username, secret_id=secret_id, missing_run=run.id, removed_at=entry.removed_at)


def plan_removal(index: Index, run: Run, how: Removal, at: float) -> tuple[list[Line], int]:
    """Return the lines that mark or delete what a run noted as missing, and the number of credentials."""
    found = [place for place in index.places() if place[2].missing_run == run.id]
    if how == "delete":
        return [GoneLine(username=name, secret_id=secret_id) for name, secret_id, _ in found], len(found)
    unmarked = [(name, secret_id) for name, secret_id, entry in found if entry.removed_at is None]
    return [
        NoteLine(username=name, secret_id=secret_id, missing_run=run.id, removed_at=at)
        for name, secret_id in unmarked
    ], len(unmarked)
