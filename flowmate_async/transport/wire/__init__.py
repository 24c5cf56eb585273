"""The fast transport: HTTP/1.1 to one origin on ``asyncio.Protocol``, parsed by llhttp (extra ``wire``).

Best on uvloop, at home on asyncio too. No proxies: the aiohttp transport has them. Reads top down:
``serialising`` makes a request's bytes, ``pool`` finds a connection or has ``dialling`` make one,
``connection`` carries the exchange, ``framing`` reads the answer.
"""

from flowmate_async.transport.wire.transport import WireOptions as WireOptions
from flowmate_async.transport.wire.transport import WireTransport as WireTransport
