"""The TLS rules every transport shares: verified, TLS 1.2 or newer, and no key log."""

import ssl
from pathlib import Path

from flowmate_async.errors import ConfigurationError
from flowmate_async.system.private_files import require_trusted


def client_context(*, ca_file: str | Path | None = None, system: bool = True) -> ssl.SSLContext:
    """Return a verifying client context.

    Built by hand: ``ssl.create_default_context`` honours ``SSLKEYLOGFILE``, which writes every session's
    keys, and so every credential, to a file.

    Args:
        ca_file: trust these authorities (PEM) instead of the system's.
        system: trust the system's. Reading them takes some 20 ms, which is wasted where nothing is
            encrypted; without them and without a file, no authority is trusted.

    Raises:
        ConfigurationError: the file cannot be read, is not PEM, or could be changed by another user.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_COMPRESSION
    if ca_file is None:
        if system:
            context.load_default_certs(ssl.Purpose.SERVER_AUTH)
        return context
    require_trusted(ca_file, what="the CA file")
    try:
        context.load_verify_locations(cafile=ca_file)
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"the CA file {ca_file} cannot be used: {error}") from None
    return context
