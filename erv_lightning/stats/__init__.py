"""Statistics over counts and ids: the bootstrap, tests of differences, agreement. Knows no file and no model."""
