"""Stands before the package of this name where a process is to have no compiler."""

raise ModuleNotFoundError("No module named 'numba'", name="numba")
