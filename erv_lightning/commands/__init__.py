"""The verbs that are not training: one small file each, with a `main(argv) -> exit code`."""
