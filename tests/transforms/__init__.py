"""Every transform of PyTorch on every function of convext: what docs/transforms.md is made of. See __main__.py."""
