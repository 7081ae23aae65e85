"""Models on many machines: Ray places and restarts engines, gateways ask them over HTTP."""
