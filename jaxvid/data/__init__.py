"""Videos in and batches out: lists, records, decoding, sampling, augmentation, the pipeline."""
