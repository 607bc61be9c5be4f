"""Parquet -> Report: figures and a page from the table of trials."""
