"""Training, evaluation and measurement of the models: run from a clone, as `python -m experiments.NAME`."""
