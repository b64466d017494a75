"""An active set for each signal, by loops that numba compiles; `active_set` alone can be imported without numba."""
