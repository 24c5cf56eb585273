"""Accounts of the identity service: a pure function of the seed.

A tenant user is made on demand, from its index alone; a million of them cost nothing until then. ``World``
keeps what tests add or change.
"""

from collections.abc import Iterator

from flowmate_async.sandbox.ids import IdSpace
from flowmate_async.sandbox.user import RAW_READ, User

_DOMAIN = "tenant.example"
_UNCONFIRMED_EVERY = 97
_UNCONFIRMED_AT = 13
BORN = "2022-11-29T14:44:11.143Z"
_ADMIN_ROLE_SLOT = 0xA0
_TENANT_SLOT = 0x7E
_ROUNDING = 1e-9


class Accounts:
    """Deterministic accounts: ``size`` active tenant users by index, and a few ``others``."""

    __slots__ = ("_ids", "_masked_share", "size", "tenant_id")

    def __init__(self, *, seed: int, size: int, masked_share: float = 0.0) -> None:
        self.size: int = size
        self._masked_share = masked_share
        self._ids = IdSpace(seed, "user")
        self.tenant_id: str = IdSpace(seed, "tenant").id_of(0, _TENANT_SLOT)

    def at(self, index: int) -> User:
        """Make the tenant user of an index; each call makes a new one."""
        # Some are unconfirmed but ACTIVE, as some recorded accounts are. They count as users.
        return User(
            username=f"user-{index:06d}@{_DOMAIN}",
            firstname=f"User{index}",
            lastname="Tenant",
            confirmed=index % _UNCONFIRMED_EVERY != _UNCONFIRMED_AT,
            tenant=self.tenant_id,
            permissions=() if self._masked(index) else (RAW_READ,),
            id=self._ids.id_of(index),
            created_at=BORN,
            updated_at=BORN,
        )

    def _masked(self, index: int) -> bool:
        """Return whether a user lacks the raw-read permission: exactly the given share, spread evenly."""
        masked_before, masked_with = (
            int(count * self._masked_share + _ROUNDING) for count in (index, index + 1)
        )
        return masked_with > masked_before

    def index_of_username(self, username: str) -> int | None:
        """Return the index behind a generated username."""
        digits = username.removeprefix("user-").removesuffix(f"@{_DOMAIN}")
        if not (digits.isascii() and digits.isdigit()):
            return None
        index = int(digits)
        known = index < self.size and username == f"user-{index:06d}@{_DOMAIN}"
        return index if known else None

    def index_of_id(self, user_id: str) -> int | None:
        """Return the index behind a generated user id."""
        place = self._ids.place_of(user_id)
        if place is None or place[1] != 0 or not 0 <= place[0] < self.size:
            return None
        return place[0]

    def administrator(self) -> User:
        """Make the account of the admin token: without a tenant, with a role."""
        account = self._account(1, "admin", roles=(self._ids.id_of(0, _ADMIN_ROLE_SLOT),))
        account.confirmed = False
        account.safeguard = {"lastLogin": BORN, "failedLoginAttempts": 0}
        return account

    def others(self, disabled_users: int) -> Iterator[User]:
        """Make the accounts that ``GET /users/`` lists and that are not active users of the tenant."""
        yield self._account(2, "svc-secrets", permissions=("iam.token.introspect",))
        yield self._account(
            3, "tenant-admin", tenant=self.tenant_id, roles=(self._ids.id_of(0, _ADMIN_ROLE_SLOT),)
        )
        for number in range(disabled_users):
            yield self._account(
                4 + number, f"disabled-{number:06d}", tenant=self.tenant_id, status="DISABLED"
            )

    def _account(self, slot: int, name: str, **fields: object) -> User:
        plain = {
            "username": f"{name}@{_DOMAIN}",
            "firstname": name,
            "lastname": "Account",
            "id": self._ids.id_of(0, slot),
            "created_at": BORN,
            "updated_at": BORN,
        }
        return User(**{**plain, **fields})  # type: ignore[arg-type]
