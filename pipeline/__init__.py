"""Videos to shards to batches: decoders, shot cuts, clips, WebDataset tars, Parquet manifest, Ray ingest, loader."""
