"""How a worker acknowledges a shard: for as long as it takes, since Celery tries once.

After one failed acknowledgement Celery counts the message as being worked on for ever; with a prefetch of one
the worker would never take another. Imported by Celery's workers only.
"""

import time

from celery.worker import state
from celery.worker.request import Request

_AGAIN_SECONDS = 0.5


class PatientRequest(Request):  # type: ignore[misc]
    """A request whose acknowledgement outlasts an outage of the broker; until the worker is told to stop.

    Attributes:
        acknowledged: whether the broker has heard.
    """

    acknowledged: bool

    def acknowledge(self) -> None:
        """Acknowledge it, again and again until the broker has heard."""
        while not self.acknowledged:
            try:
                self.message.ack()
            except self._connection_errors:
                if state.should_stop is not None or state.should_terminate is not None:
                    return  # it comes back when its visibility ends, and finds everybody synced
                time.sleep(_AGAIN_SECONDS)
            else:
                self.acknowledged = True
