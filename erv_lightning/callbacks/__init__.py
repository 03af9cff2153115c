"""What happens around a run: one callback a file."""
