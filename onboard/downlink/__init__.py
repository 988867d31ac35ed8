"""What leaves first, and what may be erased."""
