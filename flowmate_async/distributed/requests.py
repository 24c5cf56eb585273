"""How a worker acknowledges a shard: it retries until it succeeds, since Celery tries only once.

After one failed acknowledgement Celery counts the message as in progress forever; with a prefetch of one the
worker would never take another. Imported by Celery's workers only.
"""

import time

from celery.worker import state
from celery.worker.request import Request

_AGAIN_SECONDS = 0.5


class PatientRequest(Request):  # type: ignore[misc]
    """A request whose acknowledgement is retried through broker outages, until the worker is told to stop.

    Attributes:
        acknowledged: whether the broker has the acknowledgement.
    """

    acknowledged: bool

    def acknowledge(self) -> None:
        """Acknowledge it; retry until the broker has the acknowledgement."""
        while not self.acknowledged:
            try:
                self.message.ack()
            except self._connection_errors:
                if state.should_stop is not None or state.should_terminate is not None:
                    return  # it is redelivered after its visibility timeout, and finds all users synced
                time.sleep(_AGAIN_SECONDS)
            else:
                self.acknowledged = True
