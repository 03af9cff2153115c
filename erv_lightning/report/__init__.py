"""What readers see of the results: tables and figures. `erv_lightning.analysis` computes the numbers."""
