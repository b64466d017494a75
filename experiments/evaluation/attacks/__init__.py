"""Attacks on images in [0, 1]: a ball, losses to climb, and one file for each way to search the ball."""
