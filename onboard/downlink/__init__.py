"""What is sent to the ground first, and which maps may be erased for room."""
