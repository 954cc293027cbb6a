"""The border study: what each padding does to features near the border, and to predictions under shifts."""
