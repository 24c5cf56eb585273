"""The retry budget: retries add at most a tenth to the traffic, however much of it fails."""

import msgspec


class RetryBudgetStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """Statistics of the budget.

    Attributes:
        balance: retries that it would allow now.
        spent: retries that it has allowed.
        refused: retries not made because it was empty.
    """

    balance: float
    spent: int
    refused: int


class RetryBudget:
    """A token bucket that requests fill and retries empty.

    When an upstream keeps failing, each retry is one more request to a server that cannot answer those it
    has. Over any period there are at most ``reserve + share * requests`` retries.

    Args:
        share: what each first attempt adds.
        reserve: the initial and maximum balance, so that a client with little traffic may retry, too.
    """

    __slots__ = ("_balance", "_refused", "_reserve", "_share", "_spent")

    def __init__(self, *, share: float, reserve: float) -> None:
        self._share = share
        self._reserve = reserve
        self._balance = reserve
        self._spent = 0
        self._refused = 0

    def deposit(self) -> None:
        """Note that a request is sent for the first time."""
        if self._balance < self._reserve:
            self._balance = min(self._reserve, self._balance + self._share)

    def withdraw(self) -> bool:
        """Pay for a retry. Return ``False`` if it must not be made."""
        if self._balance < 1:
            self._refused += 1
            return False
        self._balance -= 1
        self._spent += 1
        return True

    def statistics(self) -> RetryBudgetStatistics:
        """Return the budget's statistics."""
        return RetryBudgetStatistics(balance=self._balance, spent=self._spent, refused=self._refused)
