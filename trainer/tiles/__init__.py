"""From scenes of any size to shards of unlabelled tiles."""
