"""The reconstruction on a token grid by loops that numba compiles; all but `loops` can be imported without numba."""
