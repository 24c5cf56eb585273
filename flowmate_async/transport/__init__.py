"""How requests reach FlowMate: the seam, and the transports behind it."""

from flowmate_async.transport.base import Breakage as Breakage
from flowmate_async.transport.base import ImmediateTransport as ImmediateTransport
from flowmate_async.transport.base import Limits as Limits
from flowmate_async.transport.base import Response as Response
from flowmate_async.transport.base import Transport as Transport
from flowmate_async.transport.base import TransportError as TransportError
