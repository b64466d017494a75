"""Designs of the experiments, run by `vars_dyn.sweep`."""
