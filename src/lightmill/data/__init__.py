"""What training reads: packs of crops, folds without leaks, samplers, batches."""
