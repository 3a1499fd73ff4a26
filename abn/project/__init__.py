"""The DVC project: file names, the stage runner, inputs and results."""
