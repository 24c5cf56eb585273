"""The gauge of credentials' health, which the metrics file and the collector of a client share."""

from collections.abc import Mapping

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric

_HEALTH = ("broken", "expiring", "provider_outage", "unreadable")
_TYPES = ("API_KEY", "MIXED", "OA2_AUTHORIZATION_CODE", "SESSION_AUTH", "SIMPLE")


def health_gauge(counts: Mapping[tuple[str, str], int]) -> Metric:
    """Return the gauge. A combination that is gone is 0, so that a graph falls.

    Args:
        counts: credentials by state and type of secret.
    """
    family = GaugeMetricFamily(
        "flowmate_credentials", "Credentials that do not plainly work.", labels=("health", "type")
    )
    known = {(health, kind): 0 for health in _HEALTH for kind in _TYPES}
    for labels, count in sorted((known | dict(counts)).items()):
        family.add_metric(labels, count)
    return family
