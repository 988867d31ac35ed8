"""Familiarity: how similar a tile is to the training imagery, from encoder features, in the exported graph."""
