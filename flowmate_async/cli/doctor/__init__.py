"""The checks of ``flowmate doctor``, one module per subject. Each check yields findings and changes nothing.

``environment``: this machine and its settings; ``network``: the way to FlowMate; ``upstream``: FlowMate
itself and what the token may do; ``traffic``: whether the rate fits; ``store_access``: the store.
"""

from flowmate_async.cli.doctor.environment import check_environment as check_environment
from flowmate_async.cli.doctor.findings import Finding as Finding
from flowmate_async.cli.doctor.findings import Status as Status
from flowmate_async.cli.doctor.findings import worst_exit as worst_exit
from flowmate_async.cli.doctor.network import check_network as check_network
from flowmate_async.cli.doctor.store_access import check_store as check_store
from flowmate_async.cli.doctor.upstream import check_upstream as check_upstream
