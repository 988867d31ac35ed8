"""Change between two maps of one place: raster, areas and polygons from class to class."""
