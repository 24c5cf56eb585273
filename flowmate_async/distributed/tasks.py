"""The Celery application: one queue per tenant, and one task, which runs a shard.

A message is acknowledged once its shard is done, so that another worker gets the shard of one that dies. A
worker takes one at a time. Results are not kept: they are in the store.
"""

import logging
import os
import socket
import ssl
import time
import warnings
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any

import msgspec
from anyio import to_thread
from msgspec import structs

from flowmate_async.distributed.broker_state import BROKER_VARIABLE, BrokerState, broker_error
from flowmate_async.distributed.envelopes import MAX_MESSAGE_BYTES, TASK, is_shard
from flowmate_async.distributed.keyspace import Keyspace
from flowmate_async.distributed.shards import Shard, opened, sealed
from flowmate_async.distributed.urls import NamedUrl, SecretUrl
from flowmate_async.errors import ConfigurationError
from flowmate_async.system.driver_boundary import DriverBoundary

if TYPE_CHECKING:
    from celery import Celery

DEFAULT_VISIBILITY_SECONDS = 300.0

_FOREIGN = ("CELERY", "KOMBU_", "SSLKEYLOGFILE")
_REDIS = ("redis://", "rediss://")
_AGAIN_SECONDS = 0.5


class Queueing(msgspec.Struct, frozen=True, kw_only=True):
    """How shards are queued.

    Attributes:
        visibility_seconds: after this time the shard of a vanished worker is given to another one. Longer
            than a shard takes: a worker leaves what it cannot do in half of this time to others.
        allow_plaintext: accept a broker on another machine without TLS, on a trusted network.
    """

    visibility_seconds: float = DEFAULT_VISIBILITY_SECONDS
    allow_plaintext: bool = False


def broker_from(environ: Mapping[str, str] = os.environ) -> SecretUrl:
    """Return the broker's URL from ``FLOWMATE_BROKER_URL`` or the file in ``FLOWMATE_BROKER_URL_FILE``.

    Raises:
        ConfigurationError: neither is set, or the file cannot be read.
    """
    named = NamedUrl.of(environ, BROKER_VARIABLE)
    del environ
    url = named.read()
    if not url.text:
        raise ConfigurationError(
            "no broker is named",
            advice=f"Set {BROKER_VARIABLE} to rediss://user:password@host:port/0, "
            f"or {BROKER_VARIABLE}_FILE to a private file that holds it",
        )
    return url


def make_app(url: SecretUrl, keyspace: Keyspace, queueing: Queueing) -> "Celery":
    """Return the application, for submitters and workers. Its settings come only from here.

    Raises:
        ConfigurationError: the extra ``celery`` or the driver of this kind of broker is not installed; or the
            broker's URL is invalid, or plaintext to another machine.
    """
    ignore_foreign_variables()
    _require_transport(url)
    url.check("the broker", allow_plaintext=queueing.allow_plaintext)
    app: Celery = _celery("celery").Celery("flowmate_async", set_as_current=False)
    queue = keyspace.of("queue")
    app.conf.update(
        broker_url=url.text,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_transport_options={
            "visibility_timeout": queueing.visibility_seconds,
            "global_keyprefix": f"{keyspace.prefix}:celery:",
            "socket_timeout": 5.0,
            "socket_connect_timeout": 5.0,
        },
        task_default_queue=queue,
        task_default_exchange=queue,
        task_default_routing_key=queue,
        task_serializer="json",
        accept_content=["json"],
        task_ignore_result=True,
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        worker_prefetch_multiplier=1,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        worker_send_task_events=False,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        worker_enable_remote_control=False,
    )
    if url.text.startswith("rediss://"):
        app.conf.broker_use_ssl = {**url.tls_files, "ssl_cert_reqs": ssl.CERT_REQUIRED}
    elif url.text.startswith("amqps://"):
        options = {name.removeprefix("ssl_"): value for name, value in url.tls_files.items()}
        app.conf.broker_use_ssl = {**options, "cert_reqs": ssl.CERT_REQUIRED}
    return app


def ignore_foreign_variables() -> None:
    """Remove the variables by which Celery, Kombu and OpenSSL would override this process's settings.

    ``CELERY_BROKER_URL`` beats any ``broker_url``, ``KOMBU_LOG_CHANNEL`` logs messages, and
    ``SSLKEYLOGFILE`` writes the keys of TLS sessions to a file.
    """
    for name in [name for name in os.environ if name.startswith(_FOREIGN)]:
        del os.environ[name]


def _require_transport(url: SecretUrl) -> None:
    try:
        _celery("kombu.transport").get_transport_cls(url.text.partition(":")[0])
    except ImportError as error:
        problem = f"{error.name} is not installed"
    except KeyError:
        problem = "Celery knows no broker of that scheme"
    else:
        return
    raise ConfigurationError(
        f"the broker in {BROKER_VARIABLE} cannot be used: {problem}",
        advice="A Redis is rediss://user:password@host:port/0; for others see Celery's documentation",
    )


def publisher(app: "Celery", keyspace: Keyspace) -> Callable[[Shard], Any]:
    """Return a function that hands a shard to the broker, outside the event loop's thread.

    Returns:
        An async function; raises ``UpstreamUnavailableError`` if the broker cannot be reached, and
        ``ConfigurationError`` if it rejects the login or a shard is too large.
    """

    async def publish(shard: Shard) -> None:
        text = sealed(shard, keyspace)
        if len(text) > MAX_MESSAGE_BYTES // 2:
            raise ConfigurationError(
                f"a shard of {len(shard.usernames):,} users is too large for a message",
                advice="Lower --shard-users",
            )
        send = partial(app.send_task, TASK, args=[text], retry=False)
        with DriverBoundary():
            try:
                await to_thread.run_sync(send)
            except _celery("kombu.exceptions").OperationalError as error:
                failure = broker_error(error)
            else:
                return
        raise failure

    return publish


def serve(
    app: "Celery",
    keyspace: Keyspace,
    *,
    run_shard: Callable[[Shard], tuple[str, ...]],
    on_shutdown: Callable[[], None],
    state: BrokerState,
) -> None:
    """Work until a signal stops it; finish the started users of the running shard, return the rest.

    Args:
        app: the application.
        keyspace: opens shards.
        run_shard: reads and stores the users of a shard. Returns those left for another one.
        on_shutdown: called when a signal came.
        state: receives the broker's state.

    Raises:
        ConfigurationError: the broker never accepted this worker and gives a reason.
    """
    signals = _celery("celery.signals")
    refuse_compression()

    def run(text: str) -> None:
        shard = opened(text, keyspace)
        if shard is None:  # not of this key, so not of this application
            logging.getLogger("flowmate_async").warning("a message that is not a shard of ours was dropped")
            return
        left = run_shard(shard)
        if left:
            _return(app, sealed(structs.replace(shard, usernames=left), keyspace))

    def shutting_down(**_: object) -> None:
        on_shutdown()

    app.task(run, name=TASK, Request="flowmate_async.distributed.requests:PatientRequest")
    signals.worker_shutting_down.connect(shutting_down, weak=False)
    with warnings.catch_warnings(), suppress(SystemExit):
        # Warnings about running as root, because of pickles, which are not accepted, and about a chosen
        # setting.
        for name in ("SecurityWarning", "CPendingDeprecationWarning"):
            warnings.simplefilter("ignore", getattr(_celery("celery.exceptions"), name))
        # Not through Celery's command line: it takes BROKER_URL, APP, CONFIG_MODULE and LOADER from the
        # environment, and imports from the working directory.
        with _restoring(app, keyspace):
            _worker(app, state).start()
    if state.refusal is not None:
        raise state.refusal


def _worker(app: "Celery", state: BrokerState) -> Any:
    """Return a Celery worker that runs one shard at a time in this process."""
    return app.Worker(
        hostname=f"flowmate-{os.getpid()}@{socket.gethostname()}",
        pool_cls="solo",
        concurrency=1,
        loglevel="WARNING",
        quiet=True,
        without_gossip=True,
        without_mingle=True,
        without_heartbeat=True,
        consumer_cls=import_module("flowmate_async.distributed.consumers").consumer(state),
    )


def refuse_compression() -> None:
    """Disable decompression of messages: a few kilobytes could become gigabytes."""
    compression = _celery("kombu.compression")

    def refuse(_: bytes) -> bytes:
        raise ValueError("compressed messages are refused")

    for content_type in compression.encoders():
        compression.register(refuse, refuse, content_type)


def _restoring(app: "Celery", keyspace: Keyspace) -> AbstractContextManager[None]:
    """Make a Redis broker accept only this application's messages and restore those of lost workers."""
    if not str(app.conf.broker_url).startswith(_REDIS):
        return nullcontext()
    broker = import_module("flowmate_async.distributed.redis_broker")
    app.conf.broker_transport = broker.transport(lambda message: is_shard(message, keyspace))
    restorer: AbstractContextManager[None] = broker.Restorer(app.connection_for_write)
    return restorer


def _return(app: "Celery", text: str) -> None:
    """Return a shard to the broker before its message is acknowledged, however long that takes."""
    state, away = _celery("celery.worker.state"), _celery("kombu.exceptions").OperationalError
    while True:
        try:
            app.send_task(TASK, args=[text], retry=False)
        except away:
            if state.should_terminate is not None:
                raise
            time.sleep(_AGAIN_SECONDS)
        else:
            return


def _celery(module: str) -> Any:
    try:
        return import_module(module)
    except ImportError:
        raise ConfigurationError(
            f"a cluster needs {module}", advice="pip install 'flowmate-async[celery,redis]'"
        ) from None
