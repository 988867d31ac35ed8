"""Supervised training on labelled sets: land cover, several sets at once, soft labels, and a teacher of our own."""
