"""Data sets by name: where each comes from, how it becomes a class tree, and which tree counts as whole."""
