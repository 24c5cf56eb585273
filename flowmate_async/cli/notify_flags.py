"""The flags for notices about broken credentials, and the receiver that they configure."""

import asyncio
import os
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from flowmate_async.cli.exits import print_error, print_status
from flowmate_async.cli.programs import SECONDS, words_of
from flowmate_async.client import FlowMate
from flowmate_async.errors import ConfigurationError, FlowMateError
from flowmate_async.health.webhook import Message, SigningKey
from flowmate_async.stores.base import Store
from flowmate_async.sync.delivery import NotDeliveredError, Notifier
from flowmate_async.system.finishing import finish_despite_cancellation
from flowmate_async.system.private_files import read_private_text


@Parameter(name="*", group="Notices")
@dataclass(frozen=True, kw_only=True)
class NotifyFlags:
    """Who hears that a credential is broken, expiring or unreadable, or has recovered."""

    notify: Annotated[
        str | None,
        Parameter(
            env_var="FLOWMATE_NOTIFY",
            help="Send signed webhooks (Standard Webhooks) to this URL: https, or http to this machine.",
        ),
    ] = field(default=None, repr=False)
    notify_key_file: Annotated[
        Path | None,
        Parameter(
            env_var="FLOWMATE_NOTIFY_KEY_FILE",
            help="A private file (0600) with the webhooks' key, whsec_…; or set FLOWMATE_NOTIFY_KEY.",
        ),
    ] = None
    notify_command: Annotated[
        str | None,
        Parameter(
            help="Run this program for each message instead, with the JSON on its standard input; exit code "
            "0 means that the message was taken."
        ),
    ] = None
    notify_digest: Annotated[
        bool, Parameter(negative=(), help="One message per run instead of one per change.")
    ] = False

    def notifier(self) -> Notifier | None:
        """Return the receiver of messages; ``None`` if none is configured.

        Raises:
            ConfigurationError: the key is missing, the URL or the command is invalid, or both are given.
        """
        if self.notify is not None and self.notify_command is not None:
            raise ConfigurationError(
                "--notify and --notify-command cannot be combined", advice="Choose one of them"
            )
        if self.notify is not None:
            from flowmate_async.integrations.webhook import Webhook  # noqa: PLC0415 - for few

            return Webhook(self.notify, key=self._key())
        if self.notify_command is not None:
            return ProgramNotifier(self.notify_command)
        return None

    def _key(self) -> SigningKey:
        if self.notify_key_file is not None:
            return SigningKey.parse(read_private_text(self.notify_key_file, what="the webhooks' key"))
        if os.environ.get("FLOWMATE_NOTIFY_KEY"):
            return SigningKey.parse(os.environ["FLOWMATE_NOTIFY_KEY"])
        raise ConfigurationError(
            "the webhooks have no key",
            advice="Put whsec_ and 32 random bytes in base64 into a private file and name it with "
            "--notify-key-file, or set FLOWMATE_NOTIFY_KEY",
        )


class ProgramNotifier:
    """Runs a program for each message, without a shell.

    Args:
        command: the program and its arguments, quoted as in a shell.

    Raises:
        ConfigurationError: it is empty, or its quotes are unbalanced.
    """

    def __init__(self, command: str) -> None:
        self._command = words_of(command, flag="--notify-command")

    async def send(self, message: Message) -> None:
        """Run the program.

        Raises:
            NotDeliveredError: it did not exit with 0, or took longer than a minute.
        """
        try:
            process = await asyncio.create_subprocess_exec(
                *self._command, stdin=asyncio.subprocess.PIPE, env={**os.environ, "WEBHOOK_ID": message.id}
            )
        except OSError as error:
            raise NotDeliveredError(f"the command cannot be run: {error.strerror}", retry=False) from None
        try:
            async with asyncio.timeout(SECONDS):
                await process.communicate(message.body)
        except TimeoutError:
            process.kill()
            await process.wait()
            raise NotDeliveredError("the command took more than a minute", retry=False) from None
        except BaseException:
            process.kill()
            await finish_despite_cancellation(process.wait())
            raise
        if process.returncode != 0:
            raise NotDeliveredError(f"the command ended with {process.returncode}", retry=False)


async def deliver(flags: NotifyFlags, notifier: Notifier | None, fm: FlowMate, store: Store) -> None:
    """Deliver the notices in the store's outbox and report the result. A failure does not end the command."""
    if notifier is None:
        return
    async with AsyncExitStack() as entered:
        if isinstance(notifier, AbstractAsyncContextManager):
            await entered.enter_async_context(notifier)
        try:
            done = await fm.notify(store, notifier, digest=flags.notify_digest)
        except FlowMateError as error:
            print_error(str(error))
            return
    if done.delivered:
        print_status(f"Delivered {done.delivered:,} notice{'s' if done.delivered != 1 else ''}")
    if done.waiting:
        waiting = "1 notice waits" if done.waiting == 1 else f"{done.waiting:,} notices wait"
        print_error(f"{waiting} for the next run: {done.problem}")
