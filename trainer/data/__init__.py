"""Imagery and labels for training."""
