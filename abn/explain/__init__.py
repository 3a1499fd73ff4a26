"""Whether a map explains a decision: maps, measures, controls and the verdict."""
