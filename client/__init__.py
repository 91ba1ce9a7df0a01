"""One member: the training process that Flower starts, and the daemon that holds the key, meters it and signs."""
