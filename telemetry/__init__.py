"""What is measured aboard."""
