"""What a run will take, before it runs: arithmetic over sizes. No weights are loaded in this room."""
