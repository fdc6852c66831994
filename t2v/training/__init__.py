"""Training: the engine that every task shares, the tasks, their losses, and ways of tuning."""
