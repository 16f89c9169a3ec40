"""Formats of checkpoint files: what each holds, checked before a payload byte is used."""
