"""The station's side: pulls maps in passes over a link that breaks, and reads telemetry."""
