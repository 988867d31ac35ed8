"""Ablation studies: runs that differ in one setting, with the same seeds, and one table of results."""
