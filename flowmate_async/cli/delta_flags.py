"""Flags for what a sync fetches again."""

from dataclasses import dataclass
from typing import Annotated, Literal

from cyclopts import Parameter

from flowmate_async.errors import ConfigurationError
from flowmate_async.sync.plan import DEFAULT_STALENESS_SECONDS, DeltaPolicy, checked_types
from flowmate_async.values.secrets import SECRET_TYPES


@Parameter(name="*", group="Delta")
@dataclass(frozen=True, kw_only=True)
class DeltaFlags:
    """What is fetched again of what was stored before."""

    full: Annotated[bool, Parameter(negative=(), help="Fetch everything, whatever the listing shows.")] = (
        False
    )
    max_staleness: Annotated[
        tuple[str, ...],
        Parameter(
            negative=(),
            help="Hours after which a credential is fetched again though its listing shows no change; "
            "TYPE=HOURS for one type, as API_KEY=1; repeatable. A changed password or key shows in no "
            "listing, so this is how stale it can be.",
        ),
    ] = (f"{DEFAULT_STALENESS_SECONDS / 3600:g}",)
    volatile: Annotated[
        Literal["fetch", "skip"],
        Parameter(
            help="Whether to fetch secrets whose GET triggers a refresh or a login; skip them where workers "
            "keep them fresh.",
        ),
    ] = "fetch"
    types: Annotated[
        tuple[str, ...],
        Parameter(
            name="--type",
            negative=(),
            help="Fetch only this type, as OA2_AUTHORIZATION_CODE; repeatable. Other types stay as they are.",
        ),
    ] = ()
    keep_tokens: Annotated[
        bool,
        Parameter(
            env_var="FLOWMATE_KEEP_TOKENS",
            negative=(),
            help="Keep the users' tokens in the store, sealed: the next sync asks for none while they live, "
            "up to three hours after their last use. A sync without this removes them.",
        ),
    ] = False
    dry_run: Annotated[
        bool, Parameter(negative=(), help="List every user and print what would be fetched; change nothing.")
    ] = False

    def policy(self) -> DeltaPolicy:
        """Return the flags as the library's options.

        Raises:
            ConfigurationError: a staleness or a type is invalid.
        """
        hours = {"": DEFAULT_STALENESS_SECONDS / 3600} | dict(map(_staleness, self.max_staleness))
        seconds = {kind: value * 3600 for kind, value in hours.items()}
        return DeltaPolicy(
            full=self.full,
            staleness_seconds=seconds.pop(""),
            staleness_by_type=seconds,
            skip_volatile=self.volatile == "skip",
            keep_tokens=self.keep_tokens,
            types=checked_types(self.types or None),
        )


def _staleness(text: str) -> tuple[str, float]:
    """Return the type (empty for all types) and the hours."""
    kind, _, hours = text.rpartition("=")
    try:
        value = float(hours)
    except ValueError:
        value = -1.0
    if not value >= 0:
        raise ConfigurationError(
            f"--max-staleness {text} is not a number of hours", advice="Write 12, or API_KEY=1 for one type"
        )
    if kind and kind not in SECRET_TYPES:
        raise ConfigurationError(
            f"--max-staleness {text} names no type of secret", advice=f"Types are {', '.join(SECRET_TYPES)}"
        )
    return kind, value
