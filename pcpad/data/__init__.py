"""Data: manifest, class map, the loaders of DALI and torchvision, the built-in images."""
