"""The HTTP service: scenes are posted, maps and telemetry are fetched."""
