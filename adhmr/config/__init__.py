"""Typed configuration: one pydantic model a stage, read from YAML by `loading.load_config`."""
