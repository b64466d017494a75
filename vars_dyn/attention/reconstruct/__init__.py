"""The reconstruction that a layer computes, in several forms."""
