"""Training, export and evaluation of models."""
