"""Which stored credentials a batch proves missing, and which are back.

For stores that write a whole batch at once; the result is the same as writing its users one by one, in order.
"""

from collections.abc import Iterable, Sequence

import msgspec

from flowmate_async.stores.base import RecordKey, UserWrite


class MissingChanges(msgspec.Struct, frozen=True):
    """What to note after writing a batch's credentials: first what is back, then what is missing.

    Attributes:
        back: credentials in one of the writes that were noted as missing or marked as removed before.
        missing: stored credentials that are neither in their user's last proven listing nor in a later write.
    """

    back: list[RecordKey]
    missing: list[RecordKey]


def missing_changes(batch: Sequence[UserWrite], stored: Iterable[tuple[str, str, bool]]) -> MissingChanges:
    """Return what to note of a batch's users; nearly always nothing.

    Args:
        batch: the users.
        stored: username and secret id of all their previously stored credentials, and whether each was noted
            as missing or marked as removed.
    """
    gone_by_user: dict[str, dict[str, bool]] = {}
    for username, secret_id, is_gone in stored:
        gone_by_user.setdefault(username, {})[secret_id] = is_gone
    back: set[RecordKey] = set()
    missing: set[RecordKey] = set()
    for user in batch:
        username, ids = user.checkpoint.username, [secret.id for secret in user.secrets]
        known = gone_by_user.setdefault(username, {})
        if not known:  # all that is stored of the user is what is written now
            known.update(dict.fromkeys(ids, False))
            continue
        known.update((secret_id, False) for secret_id in ids if secret_id not in known)
        present = set(user.present)
        for secret_id, was_gone in known.items():
            if secret_id in present:
                missing.discard((username, secret_id))
                if was_gone:
                    back.add((username, secret_id))
            elif user.listed is not None:
                missing.add((username, secret_id))
    return MissingChanges(sorted(back), sorted(missing))
