"""Secret generator: a pure function of (seed, user index) and the start of the world.

Every type and every odd value of docs/contract/OBSERVED.md § One secret occurs. The secrets are the same
regardless of what was generated before. Credentials are at least 16 characters long and unique, so that
finding one of them anywhere proves a leak.
"""

from collections.abc import Callable
from random import Random

from flowmate_async.sandbox.ids import IdSpace
from flowmate_async.sandbox.provider_faults import ProviderFault
from flowmate_async.sandbox.secret import Owner, Secret, Value
from flowmate_async.sandbox.timestamps import iso

_MAX_SECRETS = 40
_CREATED_FIRST = 1_669_000_000.0
_CREATED_SPAN_SECONDS = 90_000_000
_YEAR_33658 = "33658-09-27T01:46:40+00:00"
_SCOPE = "channels:read,chat:write,calls:write"

_VARIANTS: tuple[tuple[str, str, int], ...] = (
    ("SIMPLE", "plain", 14),
    ("SIMPLE", "unicode", 3),
    ("SIMPLE", "quotes", 3),
    ("SIMPLE", "lines", 2),
    ("API_KEY", "header", 13),
    ("API_KEY", "empty", 4),
    ("API_KEY", "absent", 4),
    ("OA2_AUTHORIZATION_CODE", "valid", 14),
    ("OA2_AUTHORIZATION_CODE", "expiring", 4),
    ("OA2_AUTHORIZATION_CODE", "expired", 4),
    ("OA2_AUTHORIZATION_CODE", "offset", 2),
    ("OA2_AUTHORIZATION_CODE", "forever", 2),
    ("OA2_AUTHORIZATION_CODE", "no-refresh", 2),
    ("OA2_AUTHORIZATION_CODE", "no-refresh-expired", 1),
    ("OA2_AUTHORIZATION_CODE", "garbage", 1),
    ("SESSION_AUTH", "null", 4),
    ("SESSION_AUTH", "absent", 3),
    ("SESSION_AUTH", "dated", 5),
    ("MIXED", "json", 5),
    ("MIXED", "lines", 2),
    ("OA1_TWO_LEGGED", "plain", 3),
    ("OA1_THREE_LEGGED", "plain", 4),
    ("FUTURE_TYPE", "plain", 1),
)
_SHARED_KINDS = (
    ("SESSION_AUTH", "null"),
    ("OA2_AUTHORIZATION_CODE", "expired"),
    ("API_KEY", "header"),
    ("OA2_AUTHORIZATION_CODE", "expiring"),
)
_WEIGHTS = tuple(weight for _, _, weight in _VARIANTS)
_CUMULATIVE = tuple(sum(_WEIGHTS[: i + 1]) for i in range(len(_WEIGHTS)))


class SecretGenerator:
    """Seeded generator: ``of_user(index)`` always gives equal secrets in the same natural order."""

    __slots__ = ("_auth_clients", "_born_at", "_ids", "_looks_masked_share", "_no_expires_in_share", "_seed")

    def __init__(
        self, *, seed: int, born_at: float, no_expires_in_share: float = 0.0, looks_masked_share: float = 0.0
    ) -> None:
        self._seed = seed
        self._born_at = born_at
        self._no_expires_in_share = no_expires_in_share
        self._looks_masked_share = looks_masked_share
        self._ids = IdSpace(seed, "secret")
        clients = IdSpace(seed, "auth-client")
        self._auth_clients = [clients.id_of(0, slot) for slot in range(6)]

    def owner_index_of(self, secret_id: str) -> int | None:
        """Return the index of the user whose generated secret this may be."""
        place = self._ids.place_of(secret_id)
        return place[0] if place else None

    def of_user(self, index: int, user_id: str) -> list[Secret]:
        """Make the secrets of a user, in an order that nothing sorts (§ Listing, "Unsorted")."""
        rng = Random(f"{self._seed}/{index}")  # noqa: S311 - a reproducible world, not a key
        variants = _variants_of(rng, index)
        owner = (Owner(user_id),)
        secrets = [
            self._make(rng, self._ids.id_of(index, slot), owner, *variant)
            for slot, variant in enumerate(variants, 1)
        ]
        rng.shuffle(secrets)
        return secrets

    def of_tenant(self, tenant_id: str) -> list[Secret]:
        """Make the few secrets that the tenant owns."""
        rng = Random(f"{self._seed}/tenant")  # noqa: S311 - a reproducible world, not a key
        ids = IdSpace(self._seed, "tenant-secret")
        owner = (Owner(tenant_id, "TENANT"),)
        kinds = ("SIMPLE", "plain"), ("API_KEY", "header"), ("OA2_AUTHORIZATION_CODE", "valid")
        return [self._make(rng, ids.id_of(0, slot), owner, *kind) for slot, kind in enumerate(kinds, 1)]

    def shared(self, number: int, owners: tuple[Owner, ...]) -> Secret:
        """Make the n-th secret of several owners: in turn a session, an expired OAuth secret and so on."""
        rng = Random(f"{self._seed}/shared/{number}")  # noqa: S311 - a reproducible world, not a key
        kind = _SHARED_KINDS[number % len(_SHARED_KINDS)]
        return self._make(rng, IdSpace(self._seed, "shared-secret").id_of(number), owners, *kind)

    def new_value(self, kind: str, number: int) -> Value:
        """Make the n-th credential that is not part of the generated world, of the first variant of its type.

        Raises:
            ValueError: an unknown type.
        """
        variant = next((variant for known, variant, _ in _VARIANTS if known == kind), None)
        if variant is None:
            known_kinds = ", ".join(dict.fromkeys(known for known, _, _ in _VARIANTS))
            raise ValueError(f"there is no credential to generate for {kind!r}; there is for {known_kinds}")
        rng = Random(f"{self._seed}/new/{number}")  # noqa: S311 - a reproducible world, not a key
        return _MAKERS[kind](self, rng, variant, f"{number:011x}")

    def _make(
        self, rng: Random, secret_id: str, owners: tuple[Owner, ...], kind: str, variant: str
    ) -> Secret:
        created = iso(_CREATED_FIRST + rng.randrange(_CREATED_SPAN_SECONDS))
        return Secret(
            id=secret_id,
            name=f"{kind.lower()}-{variant}-{secret_id[-2:]}",
            owners=owners,
            type=kind,
            value=_MAKERS[kind](self, rng, variant, f"{secret_id[:8]}{secret_id[-3:]}"),
            created_at=created,
            updated_at=created,
            domain="crm" if variant == "plain" else None,
            mixed_properties={"environment": "production"} if kind == "MIXED" else None,
            fault=ProviderFault.NO_EXPIRES_IN
            if self._odd(kind, secret_id, "expires-in", self._no_expires_in_share)
            else None,
            looks_masked=self._odd(kind, secret_id, "looks-masked", self._looks_masked_share),
        )

    def _odd(self, kind: str, secret_id: str, oddity: str, share: float) -> bool:
        """Return whether an OAuth secret has an oddity, drawn so that nothing else of the world changes."""
        rng = Random(f"{self._seed}/{oddity}/{secret_id}")  # noqa: S311 - a reproducible world, not a key
        return kind == "OA2_AUTHORIZATION_CODE" and rng.random() < share

    def _simple(self, rng: Random, variant: str, mark: str) -> Value:
        word = _word(rng, "pass", mark)
        passphrase = {
            "plain": word,
            "unicode": f"pässwörd-☂-🔑-{word}",
            "quotes": f'{word}"quoted"\'\\back\\slash',
            "lines": f"-----BEGIN {word}-----\nsecond line of {word}\n-----END-----\n",
        }[variant]
        return {"username": _word(rng, "login", mark), "passphrase": passphrase}

    def _api_key(self, rng: Random, variant: str, mark: str) -> Value:
        value: Value = {"key": _word(rng, "key", mark)}
        if variant != "absent":
            value["headerName"] = "" if variant == "empty" else "x-api-key"
        return value

    def _oauth2(self, rng: Random, variant: str, mark: str) -> Value:
        value: Value = {"authClientId": rng.choice(self._auth_clients[:3])}
        if not variant.startswith("no-refresh"):
            value["refreshToken"] = _word(rng, "refresh", mark)
        value["accessToken"] = _word(rng, "access", mark)
        value["scope"] = _SCOPE
        value["expires"] = self._oauth2_expiry(rng, variant)
        value["externalId"] = f"ext-{mark}"
        return value

    def _oauth2_expiry(self, rng: Random, variant: str) -> str:
        match variant:
            case "forever":
                return _YEAR_33658
            case "garbage":
                return "soon"
            case "expiring":
                return self._expiry(rng, 60, 840)
            case "expired" | "no-refresh-expired":
                return self._expiry(rng, -86_400, -60)
            case "offset":
                # Whole seconds and ``+00:00``, as some providers' answers were kept.
                return f"{self._expiry(rng, 3600, 86_400)[:19]}+00:00"
            case _:
                return self._expiry(rng, 3600, 86_400)

    def _session(self, rng: Random, variant: str, mark: str) -> Value:
        value: Value = {
            "authClientId": rng.choice(self._auth_clients[3:]),
            "inputFields": {
                "client_id": _word(rng, "client", mark),
                "client_secret": _word(rng, "clientsecret", mark),
            },
            "accessToken": _word(rng, "session", mark),
        }
        if variant == "null":
            value["expires"] = None
        elif variant == "dated":
            value["expires"] = self._expiry(rng, 3600, 86_400)
        return value

    def _mixed(self, rng: Random, variant: str, mark: str) -> Value:
        first, second = _word(rng, "mixed", mark), _word(rng, "mixed", mark)
        if variant == "json":
            return {"payload": f'{{"a":"{first}","b":"{second}"}}'}
        return {"payload": f"{first}\n{second}\r\nlast line"}

    def _oauth1_two_legged(self, rng: Random, _variant: str, _mark: str) -> Value:
        return {"expiresAt": self._expiry(rng, 3600, 86_400)}

    def _oauth1_three_legged(self, rng: Random, _variant: str, mark: str) -> Value:
        return {
            "authClientId": rng.choice(self._auth_clients[:3]),
            "accessToken": _word(rng, "oauth1", mark),
            "accessTokenSecret": _word(rng, "oauth1secret", mark),
            "scope": "read",
            "expires": self._expiry(rng, 3600, 86_400),
            "externalId": f"ext-{mark}",
        }

    def _future(self, rng: Random, _variant: str, mark: str) -> Value:
        return {"passkey": {"private": _word(rng, "future", mark), "counter": 1}, "tags": ["a", 2]}

    def _expiry(self, rng: Random, earliest_seconds: int, latest_seconds: int) -> str:
        return iso(self._born_at + rng.randint(earliest_seconds, latest_seconds))


_Maker = Callable[[SecretGenerator, Random, str, str], Value]
_MAKERS: dict[str, _Maker] = {
    "SIMPLE": SecretGenerator._simple,  # noqa: SLF001 - the class's own table
    "API_KEY": SecretGenerator._api_key,  # noqa: SLF001
    "OA2_AUTHORIZATION_CODE": SecretGenerator._oauth2,  # noqa: SLF001
    "SESSION_AUTH": SecretGenerator._session,  # noqa: SLF001
    "MIXED": SecretGenerator._mixed,  # noqa: SLF001
    "OA1_TWO_LEGGED": SecretGenerator._oauth1_two_legged,  # noqa: SLF001
    "OA1_THREE_LEGGED": SecretGenerator._oauth1_three_legged,  # noqa: SLF001
    "FUTURE_TYPE": SecretGenerator._future,  # noqa: SLF001
}


def _variants_of(rng: Random, index: int) -> list[tuple[str, str]]:
    count = _MAX_SECRETS if index == 0 else _count_of(rng)
    chosen = rng.choices(_VARIANTS, cum_weights=_CUMULATIVE, k=count)
    # The first user has each variant at least once, so that even a world of one user has every type.
    chosen[: len(_VARIANTS) if index == 0 else 0] = _VARIANTS if index == 0 else ()
    return [(kind, variant) for kind, variant, _ in chosen]


def _count_of(rng: Random) -> int:
    """Draw a skewed count: most users have 1 to 8 secrets, 5 % have more than a page; the mean is 7."""
    roll = rng.random()
    if roll < 0.85:
        return rng.randint(1, 8)
    return rng.randint(9, 20) if roll < 0.95 else rng.randint(31, _MAX_SECRETS)


def _word(rng: Random, label: str, mark: str) -> str:
    return f"{label}-{mark}-{rng.getrandbits(64):016x}"
