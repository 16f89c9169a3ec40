"""Compiles what ops do with a block to machine code. It knows no recipe, no plan and no file format."""
