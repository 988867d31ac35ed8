"""HTTP: scenes in, maps out, telemetry, health."""
