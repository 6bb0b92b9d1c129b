"""Named recipes and gates, one file each; in test-sets/ the catalogues of test sequences."""
