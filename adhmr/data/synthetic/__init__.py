"""Rendered people with exact labels: the data of the demo, the tests and the benchmark."""
