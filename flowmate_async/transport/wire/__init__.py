"""The fast transport: HTTP/1.1 to one origin on ``asyncio.BufferedProtocol``, parsed by llhttp.

Fastest on uvloop (extra ``wire``). It has no proxies; the aiohttp transport adds them with a dialler of its
own. To read from the top: ``serialising`` makes a request's bytes, ``pool`` finds a connection or has
``dialling`` make one, ``connection`` carries the exchange, ``framing`` reads the answer.
"""

from flowmate_async.transport.wire.transport import WireOptions as WireOptions
from flowmate_async.transport.wire.transport import WireTransport as WireTransport
