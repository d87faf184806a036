"""The methods of the literature, one file a paper: the reference, the rule, the composition."""
