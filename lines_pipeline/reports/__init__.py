"""Pictures and files of data, made of what a run measured."""
