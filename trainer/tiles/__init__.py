"""Cuts scenes of any size into shards of unlabelled tiles."""
