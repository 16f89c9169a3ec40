"""Compiles what ops do with blocks to machine code; knows no recipe, no plan and no file format.

``tracing`` makes a ``Kernel`` of ``instructions`` from an op's operations; ``signature``, ``lowering``,
``compiling`` turn it into machine code; ``launch`` runs that over blocks of files. Whatever goes wrong is a
``CompilerFailure`` (``boundary``).
"""
