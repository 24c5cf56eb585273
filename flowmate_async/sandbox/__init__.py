"""The sandbox: a local server that answers like FlowMate's upstream, for trials, tests and benchmarks.

Written from docs/contract alone. It imports nothing from the client, so that the two cannot share a mistake.

    async with Sandbox(SandboxOptions(users=50, seed=7)) as sandbox:
        print(sandbox.url, sandbox.stats())

Faults are in ``faults``: ``sandbox.configure(faults=Faults(rules=(faults.Reset(share=0.01),)))``.
"""

from flowmate_async.sandbox import faults as faults
from flowmate_async.sandbox.fault_parser import faults_from_text as faults_from_text
from flowmate_async.sandbox.fault_proxy import FaultProxy as FaultProxy
from flowmate_async.sandbox.fault_proxy import ProxyOptions as ProxyOptions
from flowmate_async.sandbox.fault_proxy import ProxyStats as ProxyStats
from flowmate_async.sandbox.faults import Fault as Fault
from flowmate_async.sandbox.faults import Faults as Faults
from flowmate_async.sandbox.options import EVERY_CLIENT as EVERY_CLIENT
from flowmate_async.sandbox.options import SandboxOptions as SandboxOptions
from flowmate_async.sandbox.options import Settings as Settings
from flowmate_async.sandbox.options import SettingsChange as SettingsChange
from flowmate_async.sandbox.outages import Outage as Outage
from flowmate_async.sandbox.provider_faults import ProviderFault as ProviderFault
from flowmate_async.sandbox.secret import Owner as Owner
from flowmate_async.sandbox.secret import Secret as Secret
from flowmate_async.sandbox.server import Sandbox as Sandbox
from flowmate_async.sandbox.server import serve_forever as serve_forever
from flowmate_async.sandbox.stats import SandboxStats as SandboxStats
from flowmate_async.sandbox.stats import burst_needed as burst_needed
from flowmate_async.sandbox.stats import most_in_window as most_in_window
from flowmate_async.sandbox.truth import Truth as Truth
from flowmate_async.sandbox.user import RAW_READ as RAW_READ
from flowmate_async.sandbox.user import User as User
from flowmate_async.sandbox.world import World as World

__all__ = [
    "EVERY_CLIENT",
    "RAW_READ",
    "Fault",
    "FaultProxy",
    "Faults",
    "Outage",
    "Owner",
    "ProviderFault",
    "ProxyOptions",
    "ProxyStats",
    "Sandbox",
    "SandboxOptions",
    "SandboxStats",
    "Secret",
    "Settings",
    "SettingsChange",
    "Truth",
    "User",
    "World",
    "burst_needed",
    "faults",
    "faults_from_text",
    "most_in_window",
    "serve_forever",
]
