"""FlowMate's contract, pure: requests, answers, failures, masked values, freshness. No I/O, no clock."""
