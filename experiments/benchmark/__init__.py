"""Measurements of what the simulator and the layers cost."""
