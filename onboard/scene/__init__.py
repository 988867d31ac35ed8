"""What comes in: opening, validating and reading scenes."""
