"""From a recording on disk to a batch: signals, lead names, readers, stores and datasets."""
