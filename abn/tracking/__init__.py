"""Results in MLflow: files are the truth, and one function brings from them what a store lacks."""
