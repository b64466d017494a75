"""What is computed of a model's outputs: attacks, saliency, attention maps."""
