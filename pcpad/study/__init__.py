"""Studies: a plan of runs, their launch, their results, the tables made of these. No torch here but to check names."""
