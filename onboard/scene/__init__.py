"""Scenes: opened, checked, and read as the model's bytes."""
