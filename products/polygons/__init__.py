"""Polygons of maps: patches of one class, whose neighbours share every vertex of their border."""
