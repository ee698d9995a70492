"""The runtime: one solve loop, its certificate and its guard."""
