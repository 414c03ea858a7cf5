"""One file a workload: its options, and the pipeline that they mean."""
