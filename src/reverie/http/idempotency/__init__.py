"""Requests with an ``Idempotency-Key``: generated once, answered as often as asked."""
