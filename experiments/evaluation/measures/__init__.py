"""What is computed from the outputs of a model: saliency, attention maps."""
