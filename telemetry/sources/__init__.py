"""Measurement sources, one module each; sources of files take the root of the file system as a parameter."""
