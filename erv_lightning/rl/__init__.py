"""Group relative policy optimisation as functions over tensors. Knows no data set and no trainer."""
