"""Secret cache: the secrets of each user, generated on first use and dropped while unchanged.

An unchanged list can be generated again at any time, so only the most recent ones stay in memory. A
changed list stays. Nothing here decides who may see a secret.
"""

from flowmate_async.sandbox.secret import Owner, Secret
from flowmate_async.sandbox.secret_generator import SecretGenerator
from flowmate_async.sandbox.user import User

_UNTOUCHED_KEPT = 4096


class SecretCache:
    """FIFO cache of generated lists of secrets, and the lists that must be kept."""

    __slots__ = ("_kept", "_secrets", "_untouched", "generator", "tenant_secrets")

    def __init__(self, generator: SecretGenerator) -> None:
        self.generator: SecretGenerator = generator
        self.tenant_secrets: list[Secret] = []
        self._untouched: dict[str, list[Secret]] = {}
        self._kept: dict[str, list[Secret]] = {}
        self._secrets: dict[str, Secret] = {}

    def of(self, index: int | None, user: User) -> list[Secret]:
        """Return a user's secrets; users without an index were added and start with none."""
        for known in (self._kept, self._untouched):
            if user.id in known:
                return known[user.id]
        if index is None:
            return self._kept.setdefault(user.id, [])
        return self._generate(index, user)

    def find(self, secret_id: str) -> Secret | None:
        """Return a secret that is in memory."""
        return self._secrets.get(secret_id)

    def keep(self, secret: Secret) -> None:
        """Keep the lists of a secret's owners from now on."""
        for owner in secret.owners:
            listed = self._untouched.pop(owner.id, None)
            if listed is not None:
                self._kept[owner.id] = listed

    def add(self, index: int | None, user: User, secret: Secret) -> None:
        """Append a secret to a user's list."""
        self._secrets[secret.id] = secret
        self.of(index, user).append(secret)
        self.keep(secret)

    def add_unlisted(self, secret: Secret) -> None:
        """Add a secret that is not listed and can only be fetched by id (§ Listing)."""
        self._secrets[secret.id] = secret
        self.tenant_secrets.append(secret)

    def add_tenant_secrets(self, tenant_id: str) -> None:
        """Add the generated secrets of the tenant."""
        for secret in self.generator.of_tenant(tenant_id):
            self.add_unlisted(secret)

    def take(self, owner: Owner, secret: Secret) -> None:
        """Take a secret from the list of one owner; others keep it."""
        listed = self._kept.get(owner.id, self.tenant_secrets)
        if secret in listed:
            listed.remove(secret)

    def remove(self, secret: Secret) -> None:
        """Remove a secret from every list."""
        self.keep(secret)
        del self._secrets[secret.id]
        for owner in secret.owners:
            self.take(owner, secret)

    def release_locks(self, client: str | None) -> None:
        """Release the locks of refreshes that failed, of one OAuth client or of all."""
        for secret in self._secrets.values():
            if client in (None, secret.value.get("authClientId")):
                secret.locked_at = None

    def _generate(self, index: int, user: User) -> list[Secret]:
        listed = self.generator.of_user(index, user.id)
        self._untouched[user.id] = listed
        for secret in listed:
            self._secrets[secret.id] = secret
        while len(self._untouched) > _UNTOUCHED_KEPT:
            self._forget_oldest()
        return listed

    def _forget_oldest(self) -> None:
        oldest = next(iter(self._untouched))
        for secret in self._untouched.pop(oldest):
            del self._secrets[secret.id]
