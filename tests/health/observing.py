"""What the tests of health share: strategies, and a record that observations happen to."""

from collections.abc import Iterable

from hypothesis import strategies as st

from flowmate_async.health import Credential, HealthPolicy, HealthRecord, HealthState, Notice
from flowmate_async.health.observations import Observation, Observed
from flowmate_async.health.records import Sighting, observed, settled

POLICY = HealthPolicy()
DAY = 86_400.0
NOW = 1_790_000_000.0
TYPES = (
    "SIMPLE",
    "API_KEY",
    "MIXED",
    "OA2_AUTHORIZATION_CODE",
    "SESSION_AUTH",
    "OA1_TWO_LEGGED",
    "OA1_THREE_LEGGED",
    "NEW_TYPE",
)

FAILURES = tuple(
    kind
    for kind in Observed
    if kind not in (Observed.READ, Observed.CHANGED, Observed.ACCEPTED, Observed.GONE, Observed.LISTED_ERROR)
)
INCONCLUSIVE = (Observed.FAILED, Observed.HUNG, Observed.EMPTY, Observed.REJECTED)

types = st.sampled_from(TYPES)
times = st.floats(min_value=NOW, max_value=NOW + 30 * DAY).map(round).map(float)
failures = st.builds(Observation, st.sampled_from(FAILURES), times)
observations = st.builds(
    Observation,
    st.sampled_from([kind for kind in Observed if kind is not Observed.GONE]),
    times,
)


class Watched:
    """A credential that is observed and settled, and the notices about it."""

    def __init__(self, secret_type: str = "OA2_AUTHORIZATION_CODE", client: str | None = "client") -> None:
        self.credential = Credential(
            username="abc", secret_id="s" * 24, type=secret_type, auth_client_id=client
        )
        self.record: HealthRecord | None = None
        self.notices: list[Notice] = []

    def see(self, *what: Observation | Observed, at: float = NOW) -> "Watched":
        seen = [one if isinstance(one, Observation) else Observation(one, at) for one in what]
        now = max([at, *(one.at for one in seen)])
        self.record = observed(self.record, Sighting(self.credential, tuple(seen)), now=now, policy=POLICY)
        return self

    def settle(self, *, outage: bool = False, at: float = NOW) -> "Watched":
        if self.record is not None:
            update = settled(self.record, outage=outage, now=at, policy=POLICY)
            self.record = update.record
            if update.notice is not None:
                self.notices.append(update.notice)
        return self

    @property
    def state(self) -> HealthState | None:
        return None if self.record is None else self.record.health.state

    @property
    def reason(self) -> str | None:
        return None if self.record is None else self.record.health.reason.value

    @property
    def told(self) -> list[str]:
        return [notice.type for notice in self.notices]


def watched(secret_type: str, seen: Iterable[Observation | Observed], *, at: float = NOW) -> Watched:
    """Return a credential that was observed and then settled without an outage."""
    one = Watched(secret_type)
    for what in seen:
        one.see(what, at=at)
    return one.settle(at=at)
