"""Scene to map: read, infer, write, publish."""
