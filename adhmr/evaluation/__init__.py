"""Errors of models on labelled sets, correlation of scores with errors, tables, the report."""
