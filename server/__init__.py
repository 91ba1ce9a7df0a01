"""The coordinator: asks members to train, admits answers, steps the checkpoint. Trusted for liveness only."""
