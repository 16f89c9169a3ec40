"""The steps that the use cases of ``api`` are made of: options, preparing, explaining, carrying out, recording."""
