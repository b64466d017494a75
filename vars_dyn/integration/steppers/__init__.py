"""The methods of integration: one file each, and what they share."""
