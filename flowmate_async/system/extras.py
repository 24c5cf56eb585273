"""Optional extras of the package."""

from collections.abc import Iterator
from contextlib import contextmanager

from flowmate_async.errors import ConfigurationError


@contextmanager
def needs_extra(what: str, module: str, extra: str) -> Iterator[None]:
    """Import a module of an optional extra in this block.

    Raises:
        ConfigurationError: it is not installed.
    """
    try:
        yield
    except ImportError:
        pass
    else:
        return
    raise ConfigurationError(f"{what} needs {module}", advice=f"pip install 'flowmate-async[{extra}]'")
