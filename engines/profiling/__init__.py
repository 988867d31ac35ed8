"""Measured speed of engines, and what bounds it by the roofline model."""
