"""The student, its decoder, and what is exported of them."""
