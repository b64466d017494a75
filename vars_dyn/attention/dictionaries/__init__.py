"""Dictionaries whose signals are the tokens of a layer."""
