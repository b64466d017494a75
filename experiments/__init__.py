"""Training, evaluation and measurement of the models. Run them from a clone, as `python -m experiments.NAME`."""
