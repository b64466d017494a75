"""What is computed from a model's outputs: attacks, saliency, attention maps."""
