"""The local twin of FlowMate's upstream: a real server to try, test and measure against.

Written from docs/contract alone; it imports nothing of the client, so that both cannot share a
mistake.

    async with Sandbox(SandboxOptions(users=50, seed=7)) as sandbox:
        print(sandbox.url, sandbox.stats())
"""

from .options import ProviderFault as ProviderFault
from .options import SandboxOptions as SandboxOptions
from .options import Settings as Settings
from .options import SettingsChange as SettingsChange
from .secret import Owner as Owner
from .secret import Secret as Secret
from .server import Sandbox as Sandbox
from .server import serve_forever as serve_forever
from .stats import SandboxStats as SandboxStats
from .user import RAW_READ as RAW_READ
from .user import User as User
from .world import Truth as Truth
from .world import World as World

__all__ = [
    "RAW_READ",
    "Owner",
    "ProviderFault",
    "Sandbox",
    "SandboxOptions",
    "SandboxStats",
    "Secret",
    "Settings",
    "SettingsChange",
    "Truth",
    "User",
    "World",
    "serve_forever",
]
