"""Frames to bitstream and back: models, quantization, entropy coding, container, colour, metrics. No Ray, no MLflow."""
