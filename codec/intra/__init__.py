"""Intra frames: learned directional prediction, 8x8 and 4x4 lifting transforms, coefficients in mixed chances."""
