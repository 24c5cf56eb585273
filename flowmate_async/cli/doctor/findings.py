"""Findings: what a check found, and what to do about it."""

from collections.abc import Iterable
from typing import Literal

import msgspec

from flowmate_async.cli.exits import Exit, exit_code
from flowmate_async.errors import FlowMateError
from flowmate_async.redaction import one_line

Status = Literal["ok", "warning", "error", "skipped"]
"""``skipped``: the check needs something that another check found missing."""


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the doctor's output.

    Attributes:
        check: what was checked, in one word.
        status: the result.
        message: what was found.
        fix: what to do; empty if nothing needs to be done.
        exit_code: the command's exit code if this is its first error.
    """

    check: str
    status: Status
    message: str
    fix: str = ""
    exit_code: int = Exit.OK


def ok(check: str, message: str) -> Finding:
    """All is well."""
    return Finding(check=check, status="ok", message=message)


def warning(check: str, message: str, fix: str) -> Finding:
    """It works, but perhaps not for long or not well."""
    return Finding(check=check, status="warning", message=message, fix=fix)


def error(check: str, message: str, fix: str, *, code: Exit = Exit.USAGE) -> Finding:
    """It cannot work."""
    return Finding(check=check, status="error", message=message, fix=fix, exit_code=code)


def skipped(check: str, because: str) -> Finding:
    """It could not be checked."""
    return Finding(check=check, status="skipped", message=because)


def failed(check: str, failure: FlowMateError, *, fix: str = "") -> Finding:
    """Return a finding for an error of the library.

    Args:
        check: what was checked.
        failure: the error, which carries its own advice.
        fix: what to do if the error gives no advice.
    """
    advice, message = failure.advice or fix, str(failure)
    if failure.advice:
        message = message.removesuffix(f". {failure.advice}")
    return error(check, one_line(message, limit=2000), one_line(advice, limit=2000), code=exit_code(failure))


def worst_exit(findings: Iterable[Finding], *, strict: bool) -> Exit:
    """Return the exit code of the first error; warnings count only if ``strict``."""
    warned = False
    for finding in findings:
        if finding.status == "error":
            return Exit(finding.exit_code)
        warned = warned or finding.status == "warning"
    return Exit.SOME_FAILED if strict and warned else Exit.OK
