"""The built-in noises, one file each; ``registry.py`` finds them by name."""
