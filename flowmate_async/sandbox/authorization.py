"""Authorization: which token a request carries. Pure.

docs/contract/OBSERVED.md § Errors and § Second look, "Requests": the scheme does not matter, and neither does
a word after the token. Other modules decide whose token it is.
"""

from . import answers
from .answers import Answer, error

__all__ = ["carried_token", "token_or_refusal"]


def token_or_refusal(header: str | None) -> str | Answer:
    """Return the token of an `Authorization` header, or the secret service's 401."""
    if not header:
        return error(401, answers.MISSING_AUTHORIZATION)
    return carried_token(header) or error(401, answers.INVALID_AUTHORIZATION)


def carried_token(header: str | None) -> str | None:
    """Return the token of an `Authorization` header; None without one."""
    words = (header or "").split()
    return words[1] if len(words) > 1 else None
