"""The command line: arguments to use cases, results to tables, errors to exit codes."""
