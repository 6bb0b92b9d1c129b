"""DCVC-FM: conditional coding with feature modulation. `model` is its face, `network` has the drawing."""
