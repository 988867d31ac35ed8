"""Models for a satellite: keys, signed lists, and the way up the link."""
