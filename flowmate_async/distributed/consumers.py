"""Celery's consumer, for workers: it reports the broker's state, and ends if the broker rejects the login.

Imported by workers only.
"""

import logging
import time
from typing import Any

from celery.exceptions import WorkerShutdown
from celery.worker.consumer import Consumer
from celery.worker.state import maybe_shutdown

from flowmate_async.distributed.broker_state import BrokerState, broker_trouble
from flowmate_async.system.driver_boundary import DriverBoundary

_AGAIN_SECONDS = 0.5
_log = logging.getLogger("flowmate_async")


def consumer(state: BrokerState) -> type[Any]:
    """Return the class of a worker's consumer."""

    class WatchedConsumer(Consumer):  # type: ignore[misc]
        def ensure_connected(self, conn: Any) -> Any:
            """Connect, however long the broker is unavailable."""
            while True:
                maybe_shutdown()
                with DriverBoundary():
                    try:
                        conn.connect()
                    except (*conn.recoverable_connection_errors, OSError) as error:
                        trouble = broker_trouble(error)
                    else:
                        return conn
                if state.lost(trouble):
                    raise WorkerShutdown(1)
                time.sleep(_AGAIN_SECONDS)

        def on_ready(self) -> None:
            super().on_ready()
            state.ready()

        def on_connection_error_after_connected(self, exc: Exception) -> None:
            state.lost(broker_trouble(exc))
            super().on_connection_error_after_connected(exc)

    return WatchedConsumer
