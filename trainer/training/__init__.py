"""The training loop and what it keeps: checkpoints, schedule, record and curves."""
