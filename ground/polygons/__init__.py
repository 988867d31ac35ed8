"""`ground polygons`."""
