"""Where tasks run: in this thread, on threads, or on a Dask cluster, with the same results."""
