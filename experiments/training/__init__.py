"""Training of a model: the loop, networks, checkpoints, logs, and the probe of its layers."""
