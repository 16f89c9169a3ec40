"""``python -m lines_pipeline`` is the command line."""

from lines_pipeline.cli.app import main

if __name__ == "__main__":
    main()
