"""``--celery`` and ``flowmate worker``: wires a sync by many workers on many machines."""

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from flowmate_async.cli.exits import Exit, print_status, print_warning
from flowmate_async.cli.observing import WatchFlags
from flowmate_async.cli.options import Connection, StoreFlags
from flowmate_async.client import FlowMate
from flowmate_async.clock import SystemClock
from flowmate_async.distributed.broker_state import BrokerState
from flowmate_async.distributed.connection import connect, url_from
from flowmate_async.distributed.coordination import RedisCoordination, SharingPolicy
from flowmate_async.distributed.job_state import JobState
from flowmate_async.distributed.keyspace import Keyspace
from flowmate_async.distributed.shard_runner import ShardRunner
from flowmate_async.distributed.submitter import CeleryExecutor, FollowPolicy
from flowmate_async.distributed.tasks import (
    DEFAULT_VISIBILITY_SECONDS,
    Queueing,
    broker_from,
    make_app,
    publisher,
    serve,
)
from flowmate_async.errors import ConfigurationError
from flowmate_async.events import Event, RunBegan, UserNotStored, UserStored
from flowmate_async.stores import Store, StoreKey
from flowmate_async.sync.plan import DeltaPolicy
from flowmate_async.sync.results import Executor
from flowmate_async.values.settings import checked_base_url

if TYPE_CHECKING:
    from flowmate_async.integrations.observable import Observable


@Parameter(name="*", group="Cluster")
@dataclass(frozen=True, kw_only=True)
class ClusterFlags:
    """Flags shared by all workers of a cluster and the process that follows them."""

    processes: Annotated[
        int,
        Parameter(
            env_var="FLOWMATE_PROCESSES",
            help="Most processes that share the rate; each keeps to its part of it while Redis is away.",
        ),
    ] = 16
    on_outage: Annotated[
        Literal["share", "error"],
        Parameter(env_var="FLOWMATE_ON_OUTAGE", help="Without Redis: keep to a share of the rate, or fail."),
    ] = "share"
    visibility: Annotated[
        float,
        Parameter(
            env_var="FLOWMATE_VISIBILITY", help="Seconds after which a lost worker's shard goes to another."
        ),
    ] = DEFAULT_VISIBILITY_SECONDS

    shard_users: Annotated[
        int, Parameter(env_var="FLOWMATE_SHARD_USERS", help="Users that are handed to a worker at once.")
    ] = 50

    namespace: Annotated[
        str,
        Parameter(
            env_var="FLOWMATE_NAMESPACE", help="Keeps applications apart that share a Redis and a FlowMate."
        ),
    ] = ""

    allow_plaintext: Annotated[
        bool,
        Parameter(
            env_var="FLOWMATE_ALLOW_PLAINTEXT",
            negative=(),
            help="Accept a Redis or broker on another machine without TLS, on a network that you trust.",
        ),
    ] = False

    def policy(self) -> SharingPolicy:
        """Return the flags as the library's options.

        Raises:
            ConfigurationError: a number is out of range.
        """
        if min(self.processes, self.shard_users) < 1 or not self.visibility >= 1:
            raise ConfigurationError("--processes, --shard-users and --visibility must be at least 1")
        return SharingPolicy(
            processes=self.processes,
            on_outage=self.on_outage,
            namespace=self.namespace,
            allow_plaintext=self.allow_plaintext,
        )

    def queueing(self) -> Queueing:
        """Return how shards are queued."""
        return Queueing(visibility_seconds=self.visibility, allow_plaintext=self.allow_plaintext)


_SILENT_SECONDS = 15.0


class WorkerWatch:
    """Listener that says so if no worker seems to take any user."""

    def __init__(self) -> None:
        self._timer: asyncio.TimerHandle | None = None

    def __call__(self, event: Event) -> None:
        """Wait for the first user after the beginning of the run."""
        if isinstance(event, RunBegan):
            self._timer = asyncio.get_running_loop().call_later(_SILENT_SECONDS, _say_no_workers)
        elif isinstance(event, UserStored | UserNotStored):
            self.cancel()

    def cancel(self) -> None:
        """Stop waiting."""
        if self._timer is not None:
            self._timer.cancel()


def _say_no_workers() -> None:
    print_warning(
        f"no user was stored for {_SILENT_SECONDS:.0f} s. Is a `flowmate worker` running, with the same "
        "broker, Redis, store, key and --namespace?",
        event="no_workers",
    )


class Cluster:
    """A cluster, as seen by one of its processes.

    Args:
        connection: how FlowMate is reached.
        store: where the credentials go; its key also seals the data in Redis.
        flags: see :class:`ClusterFlags`.
        delta: what is fetched again, for the submitter.

    Raises:
        ConfigurationError: broker, Redis or key is not given, or an extra is not installed.
    """

    def __init__(
        self,
        connection: Connection,
        store: StoreFlags,
        flags: ClusterFlags,
        *,
        delta: DeltaPolicy | None = None,
    ) -> None:
        self._delta = delta
        self._connection = connection
        self._store = store
        self._flags = flags
        self._policy = flags.policy()
        self._redis_url = url_from(allow_plaintext=flags.allow_plaintext)
        self._key: StoreKey = store.key()
        base_url = checked_base_url(connection.base_url)
        self._keyspace = Keyspace(self._key, namespace=self._policy.namespace, base_url=base_url)
        self._broker = broker_from()
        self._app = make_app(self._broker, self._keyspace, flags.queueing())

    def client(self) -> FlowMate:
        """A client that shares with all other processes, not yet entered."""
        coordination = RedisCoordination(self._redis_url, key=self._key, policy=self._policy)
        return self._connection.client(coordination=coordination)

    def aggregate(self, fm: FlowMate) -> "Observable":
        """The follower's own client; it does not include what the workers do.

        Args:
            fm: entered.
        """
        return fm

    def executor(self, store: Store) -> Executor:
        """The workers of the cluster, for the process that submits and follows.

        Args:
            store: entered by the follower.
        """
        return CeleryExecutor(
            publisher(self._app, self._keyspace),
            JobState(connect(self._redis_url), self._keyspace),
            store,
            policy=FollowPolicy(
                shard_users=self._flags.shard_users, stall_seconds=self._flags.visibility * 1.2
            ),
            clock=SystemClock(),
            delta=self._delta,
        )

    def work(self, watch: WatchFlags) -> Exit:
        """Work until a signal stops it.

        Args:
            watch: the monitoring flags.
        """
        runner = ShardRunner(
            self.client,
            lambda: self._store.open(create=True),
            redis_url=self._redis_url,
            keyspace=self._keyspace,
            shard_seconds=self._flags.visibility / 2,
            watched=lambda fm: watch.watched(
                fm, leaving=lambda: runner.stopping or not broker.is_up, problem=lambda: broker.problem
            ),
        )
        broker = BrokerState(self._say_ready)
        with runner:
            serve(
                self._app,
                self._keyspace,
                run_shard=runner.run_shard,
                on_shutdown=runner.stop,
                state=broker,
            )
        return Exit.OK

    def _say_ready(self) -> None:
        print_status(
            f"A worker is ready: broker {self._broker.place}, Redis {self._redis_url.place}. "
            "Ctrl-C or SIGTERM ends it after the users in flight."
        )


def worker(
    *,
    store: StoreFlags = StoreFlags(),
    cluster: ClusterFlags = ClusterFlags(),
    watch: WatchFlags = WatchFlags(),
    connection: Connection = Connection(),
) -> int:
    """Work for `flowmate sync --celery`: read and store users, shard after shard, until a signal says stop.

    The broker is named by FLOWMATE_BROKER_URL, and the Redis that all of them share by FLOWMATE_REDIS_URL,
    which may be left out when they are the same. Append _FILE to these names to name a private
    file that holds the URL. One process uses one core; start as many as there are.

    Examples:
        FLOWMATE_BROKER_URL=rediss://user:password@redis:6379/0 flowmate worker

        flowmate worker --metrics-port 9464

    Args:
        store: Where the credentials go: the same for all workers.
        cluster: What all workers have in common.
        watch: The monitoring flags.
        connection: How FlowMate is reached.
    """
    watch.check()
    return Cluster(connection, store, cluster).work(watch)
