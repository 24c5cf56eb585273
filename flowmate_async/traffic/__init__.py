"""Flow control: concurrency, rate, quarantine and retries. Knows requests, not users or secrets."""
