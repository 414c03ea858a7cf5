"""Models behind small protocols: segmenters, decomposers, normal estimators, scorers."""
