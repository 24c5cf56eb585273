"""flowmate_async: the asyncio-native way to fetch FlowMate credentials.

``async with FlowMate(admin_token=...) as fm`` is the client; everything public is listed in ``__all__``.
"""

import logging as _logging

from flowmate_async.access.api import ApiLimits as ApiLimits
from flowmate_async.access.leases import Lease as Lease
from flowmate_async.access.prefetch import Prefetch as Prefetch
from flowmate_async.blocking import FlowMateSync as FlowMateSync
from flowmate_async.client import FlowMate as FlowMate
from flowmate_async.clock import Clock as Clock
from flowmate_async.clock import SystemClock as SystemClock
from flowmate_async.contract.freshness import FreshnessPolicy as FreshnessPolicy
from flowmate_async.engine.breaker import BreakerPolicy as BreakerPolicy
from flowmate_async.engine.bulkheads import BulkheadPolicy as BulkheadPolicy
from flowmate_async.engine.coordination import Coordination as Coordination
from flowmate_async.engine.pacer import FlowPolicy as FlowPolicy
from flowmate_async.engine.retry import RetryPolicy as RetryPolicy
from flowmate_async.errors import AuthenticationError as AuthenticationError
from flowmate_async.errors import CheckpointError as CheckpointError
from flowmate_async.errors import ConfigurationError as ConfigurationError
from flowmate_async.errors import CredentialExpiredError as CredentialExpiredError
from flowmate_async.errors import CredentialMissingError as CredentialMissingError
from flowmate_async.errors import CredentialRejectedError as CredentialRejectedError
from flowmate_async.errors import FlowMateError as FlowMateError
from flowmate_async.errors import IncompleteListingError as IncompleteListingError
from flowmate_async.errors import InvalidIdError as InvalidIdError
from flowmate_async.errors import MaskedSecretError as MaskedSecretError
from flowmate_async.errors import PermissionDeniedError as PermissionDeniedError
from flowmate_async.errors import ProtocolError as ProtocolError
from flowmate_async.errors import RateLimitedError as RateLimitedError
from flowmate_async.errors import RefreshFailedError as RefreshFailedError
from flowmate_async.errors import RunInProgressError as RunInProgressError
from flowmate_async.errors import SecretNotFoundError as SecretNotFoundError
from flowmate_async.errors import StoreError as StoreError
from flowmate_async.errors import StoreMissingError as StoreMissingError
from flowmate_async.errors import TooManyFailuresError as TooManyFailuresError
from flowmate_async.errors import UpstreamTimeoutError as UpstreamTimeoutError
from flowmate_async.errors import UpstreamUnavailableError as UpstreamUnavailableError
from flowmate_async.errors import UserNotFoundError as UserNotFoundError
from flowmate_async.errors import WorkerLostError as WorkerLostError
from flowmate_async.redaction import Headers as Headers
from flowmate_async.stats import Latency as Latency
from flowmate_async.stats import Stats as Stats
from flowmate_async.stores import KeepsTokens as KeepsTokens
from flowmate_async.stores import Store as Store
from flowmate_async.stores import StoreKey as StoreKey
from flowmate_async.stores import open_store as open_store
from flowmate_async.sync.dry_run import SyncPlan as SyncPlan
from flowmate_async.sync.engine import SyncOptions as SyncOptions
from flowmate_async.sync.outcomes import Outcome as Outcome
from flowmate_async.sync.outcomes import UserFailed as UserFailed
from flowmate_async.sync.outcomes import UserSynced as UserSynced
from flowmate_async.sync.plan import DeltaPolicy as DeltaPolicy
from flowmate_async.sync.report import LeftOut as LeftOut
from flowmate_async.sync.report import SyncReport as SyncReport
from flowmate_async.transport import ImmediateTransport as ImmediateTransport
from flowmate_async.transport import Limits as Limits
from flowmate_async.transport import Response as Response
from flowmate_async.transport import Transport as Transport
from flowmate_async.transport import TransportError as TransportError
from flowmate_async.values.dates import FAR_FUTURE as FAR_FUTURE
from flowmate_async.values.models import KeptToken as KeptToken
from flowmate_async.values.models import Owner as Owner
from flowmate_async.values.models import SecretSummary as SecretSummary
from flowmate_async.values.models import SummaryValue as SummaryValue
from flowmate_async.values.models import User as User
from flowmate_async.values.models import UserToken as UserToken
from flowmate_async.values.secrets import ApiKeySecret as ApiKeySecret
from flowmate_async.values.secrets import ApiKeyValue as ApiKeyValue
from flowmate_async.values.secrets import MixedSecret as MixedSecret
from flowmate_async.values.secrets import MixedValue as MixedValue
from flowmate_async.values.secrets import OAuth1Secret as OAuth1Secret
from flowmate_async.values.secrets import OAuth1TwoLeggedSecret as OAuth1TwoLeggedSecret
from flowmate_async.values.secrets import OAuth1Value as OAuth1Value
from flowmate_async.values.secrets import OAuth2Secret as OAuth2Secret
from flowmate_async.values.secrets import OAuth2Value as OAuth2Value
from flowmate_async.values.secrets import Secret as Secret
from flowmate_async.values.secrets import SessionSecret as SessionSecret
from flowmate_async.values.secrets import SessionValue as SessionValue
from flowmate_async.values.secrets import SimpleSecret as SimpleSecret
from flowmate_async.values.secrets import SimpleValue as SimpleValue
from flowmate_async.values.secrets import UnknownSecret as UnknownSecret
from flowmate_async.values.secrets import decode_secret as decode_secret

__all__ = [
    "FAR_FUTURE",
    "ApiKeySecret",
    "ApiKeyValue",
    "ApiLimits",
    "AuthenticationError",
    "BreakerPolicy",
    "BulkheadPolicy",
    "CheckpointError",
    "Clock",
    "ConfigurationError",
    "Coordination",
    "CredentialExpiredError",
    "CredentialMissingError",
    "CredentialRejectedError",
    "DeltaPolicy",
    "FlowMate",
    "FlowMateError",
    "FlowMateSync",
    "FlowPolicy",
    "FreshnessPolicy",
    "Headers",
    "ImmediateTransport",
    "IncompleteListingError",
    "InvalidIdError",
    "KeepsTokens",
    "KeptToken",
    "Latency",
    "Lease",
    "LeftOut",
    "Limits",
    "MaskedSecretError",
    "MixedSecret",
    "MixedValue",
    "OAuth1Secret",
    "OAuth1TwoLeggedSecret",
    "OAuth1Value",
    "OAuth2Secret",
    "OAuth2Value",
    "Outcome",
    "Owner",
    "PermissionDeniedError",
    "Prefetch",
    "ProtocolError",
    "RateLimitedError",
    "RefreshFailedError",
    "Response",
    "RetryPolicy",
    "RunInProgressError",
    "Secret",
    "SecretNotFoundError",
    "SecretSummary",
    "SessionSecret",
    "SessionValue",
    "SimpleSecret",
    "SimpleValue",
    "Stats",
    "Store",
    "StoreError",
    "StoreKey",
    "StoreMissingError",
    "SummaryValue",
    "SyncOptions",
    "SyncPlan",
    "SyncReport",
    "SystemClock",
    "TooManyFailuresError",
    "Transport",
    "TransportError",
    "UnknownSecret",
    "UpstreamTimeoutError",
    "UpstreamUnavailableError",
    "User",
    "UserFailed",
    "UserNotFoundError",
    "UserSynced",
    "UserToken",
    "WorkerLostError",
    "decode_secret",
    "open_store",
]

__version__ = "0.2.0"

_logging.getLogger("flowmate_async").addHandler(_logging.NullHandler())
