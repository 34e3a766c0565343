"""Times convext's convolutions against torch's on the layers of well-known networks: ``python -m bench --help``."""
