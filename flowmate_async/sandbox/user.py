"""One account of the identity service, as ``GET /users/`` shows it.

docs/contract/OBSERVED.md § Users of the tenant
"""

import msgspec

RAW_READ = "secrets.secret.readRaw"


class User(msgspec.Struct, kw_only=True):
    """Account: a user of the tenant, an administrator or a service account.

    Mutable, so that a test can disable a user or revoke a permission at any time.

    Attributes:
        username: the name to impersonate it by.
        firstname: only displayed.
        lastname: only displayed.
        status: ``ACTIVE``, or it cannot be impersonated.
        confirmed: only displayed.
        tenant: the tenant's id; absent for administrators and service accounts.
        roles: with any, it is an administrator.
        permissions: without ``RAW_READ`` it sees masked credentials.
        id: its internal id.
        created_at: in ISO 8601.
        updated_at: in ISO 8601.
        version: only displayed.
        safeguard: only displayed.
    """

    username: str
    firstname: str
    lastname: str
    status: str = "ACTIVE"
    confirmed: bool = True
    tenant: str | msgspec.UnsetType = msgspec.UNSET
    roles: tuple[str, ...] = ()
    permissions: tuple[str, ...] = ()
    id: str = msgspec.field(name="_id")
    created_at: str = msgspec.field(name="createdAt")
    updated_at: str = msgspec.field(name="updatedAt")
    version: int = msgspec.field(name="__v", default=0)
    safeguard: dict[str, str | int] | msgspec.UnsetType = msgspec.UNSET

    @property
    def active(self) -> bool:
        """Return whether the account can be impersonated."""
        return self.status == "ACTIVE"

    @property
    def active_tenant_user(self) -> bool:
        """Return whether the account is one of "all users": active, in the tenant, without roles."""
        return self.active and self.tenant is not msgspec.UNSET and not self.roles

    @property
    def reads_raw(self) -> bool:
        """Return whether the account sees secrets unmasked."""
        return RAW_READ in self.permissions
