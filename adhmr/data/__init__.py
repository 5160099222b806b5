"""Shards, the sampling plan, the stream of batches and the transforms of training samples."""
