"""From a checkpoint to records: trained models, suites, corruptions, measures."""
