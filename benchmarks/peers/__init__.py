"""Comparison with other tools on the main task, mapping a scene: `make bench-peers`."""
