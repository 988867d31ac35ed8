"""A matrix of runs: arms that differ in one thing, the same seeds for each, one table."""
