"""DCVC-FM at the paper's size. `model` is its face, `inter_model` has the drawing of an inter frame."""
