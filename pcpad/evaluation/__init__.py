"""Evaluation: exact counts, and one record for each."""
