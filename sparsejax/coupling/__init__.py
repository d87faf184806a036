"""Units that live or die together across layers: found by tracing, scored, pruned as a whole."""
