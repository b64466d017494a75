"""Sparse problems to certified codes, and codes to gradients."""
