"""From a scene to its map: read, infer, write to the canvas, publish."""
