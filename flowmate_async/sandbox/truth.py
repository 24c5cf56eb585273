"""Ground truth: what a store must hold after a sync. Values only."""

import msgspec

from flowmate_async.sandbox.secret import Secret, Value
from flowmate_async.sandbox.user import User

_NOT_IN_TRUTH = ("refreshToken", "inputFields")


class Truth(msgspec.Struct, frozen=True):
    """The current state of one secret upstream, in plaintext.

    Attributes:
        username: the user whose secret it is.
        secret_id: its id.
        type: the contract's word for its type.
        value: the credential, with the contract's field names.
    """

    username: str
    secret_id: str
    type: str
    value: Value


def truth_of(user: User, secret: Secret) -> Truth:
    """Return the ground truth about one user's secret, without upstream's internal fields."""
    value = {name: field for name, field in secret.value.items() if name not in _NOT_IN_TRUTH}
    return Truth(user.username, secret.id, secret.type, value)
