"""Stage 4: images, stored by the digest of their bytes, and a root that is a stack of layers."""
