"""Physiology of sparse-coding neurons: receptive fields, tuning curves, and effects from beyond the receptive field."""
