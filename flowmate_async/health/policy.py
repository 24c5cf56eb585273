"""How much evidence it takes until a credential is called broken, or a provider down."""

import msgspec

HOUR = 3600.0


class Repetition(msgspec.Struct, frozen=True, kw_only=True):
    """How often, and over how long, something inconclusive has to happen.

    Attributes:
        times: how many observations in a row, without a success between them.
        over_seconds: how long the first and the last of them have to be apart.
    """

    times: int
    over_seconds: float


class HealthPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """When inconclusive evidence suffices. Every default favours missing a day over a false alarm.

    Attributes:
        failures: renewals that failed for a reason that can be the provider's: a 5xx, a timeout, an error
            body. With a sync per night the third night decides.
        rejections: rejections by apps that got the same value again from FlowMate.
        empty: answers without a credential.
        expiring_seconds: how long before its end a credential that cannot be renewed is ``expiring``.
        skew_seconds: how far this machine's clock may be ahead before an end that has passed counts.
        outage_share: the share of an OAuth client's renewals that have to fail at the same time for a
            provider outage, from 0 to 1.
        outage_over_share: an outage goes on until the share of failures falls below this.
        outage_credentials: how many credentials of the client have to fail at least.
        outage_seconds: what "at the same time" means: failures and successes at most this far apart.
    """

    failures: Repetition = Repetition(times=3, over_seconds=24 * HOUR)
    rejections: Repetition = Repetition(times=3, over_seconds=HOUR)
    empty: Repetition = Repetition(times=2, over_seconds=12 * HOUR)
    expiring_seconds: float = 7 * 24 * HOUR
    skew_seconds: float = 300.0
    outage_share: float = 0.5
    outage_over_share: float = 0.25
    outage_credentials: int = 5
    outage_seconds: float = 900.0


DEFAULT_POLICY = HealthPolicy()
