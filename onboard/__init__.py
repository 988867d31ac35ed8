"""What flies: scenes in, land-cover maps out."""
