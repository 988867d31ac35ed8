"""Detection of memory faults (bit flips) in a running engine."""
