"""Training: the loop, optimizer, schedule, checkpoints, logging."""
