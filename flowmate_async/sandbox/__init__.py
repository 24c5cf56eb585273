"""The sandbox: a local server that answers like FlowMate's upstream, for trials, tests and benchmarks.

Written from docs/contract alone. It imports nothing from the client, so that the two cannot share a mistake.

    async with Sandbox(SandboxOptions(users=50, seed=7)) as sandbox:
        print(sandbox.url, sandbox.stats())

Faults are in `faults`: `sandbox.configure(faults=Faults(rules=(faults.Reset(share=0.01),)))`.
"""

from . import faults as faults
from .arrivals import burst_needed as burst_needed
from .arrivals import most_in_window as most_in_window
from .fault_parser import faults_from_text as faults_from_text
from .fault_proxy import FaultProxy as FaultProxy
from .fault_proxy import ProxyOptions as ProxyOptions
from .fault_proxy import ProxyStats as ProxyStats
from .faults import Fault as Fault
from .faults import Faults as Faults
from .options import EVERY_CLIENT as EVERY_CLIENT
from .options import SandboxOptions as SandboxOptions
from .options import Settings as Settings
from .options import SettingsChange as SettingsChange
from .outages import Outage as Outage
from .provider_faults import ProviderFault as ProviderFault
from .secret import Owner as Owner
from .secret import Secret as Secret
from .server import Sandbox as Sandbox
from .server import serve_forever as serve_forever
from .stats import SandboxStats as SandboxStats
from .truth import Truth as Truth
from .user import RAW_READ as RAW_READ
from .user import User as User
from .world import World as World

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
