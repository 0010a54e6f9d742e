"""Training: plan, callbacks, checkpoints, progress."""
