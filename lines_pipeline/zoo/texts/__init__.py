"""Holds ``zoo://texts``: a pretrained sentence encoder, tasks of real labelled texts, and experts built on demand."""
