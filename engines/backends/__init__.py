"""Adapters to the runtimes, one module a runtime; each exports one `Backend` record a backend name."""
