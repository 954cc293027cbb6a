"""Reports: one HTML page of a study, or of all of them, from committed records alone; torch is never imported."""
