"""URLs that log in: from the environment, or from a private file that the environment names."""

from collections.abc import Mapping
from typing import ClassVar, Self

from flowmate_async.private_files import read_private_text
from flowmate_async.redaction import Redacted


class SecretUrl(Redacted, frozen=True):
    """A URL with what it takes to log in; never shows.

    Attributes:
        text: the URL; empty when none is named.
    """

    text: str


class NamedUrl(Redacted, frozen=True):
    """What the environment says of a URL; taken out of it first, so that no frame that raises holds it.

    Attributes:
        variable: the variable's name.
        text: what is in it.
        file: what is in the variable with ``_FILE`` behind its name.
    """

    variable: str
    text: str
    file: str

    __shown__: ClassVar[tuple[str, ...]] = ("variable", "file")

    @classmethod
    def of(cls, environ: Mapping[str, str], variable: str) -> Self:
        """What the environment says.

        Args:
            environ: the environment.
            variable: the variable's name.
        """
        return cls(variable, environ.get(variable, ""), environ.get(f"{variable}_FILE", ""))

    def read(self) -> SecretUrl:
        """The URL itself.

        Raises:
            ConfigurationError: the file is missing, or readable by others.
        """
        if self.text or not self.file:
            return SecretUrl(self.text)
        return SecretUrl(read_private_text(self.file, what=f"the file that {self.variable}_FILE names"))
