"""From a base model and a scorer to preference shards: hypotheses, their errors, pairs, the generation worker."""
