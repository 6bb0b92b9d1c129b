"""InnVC: invertible transform, implicit conditioning field, scheduled masking; low rate to lossless in one model."""
