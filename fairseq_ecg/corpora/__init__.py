"""One file per public dataset: where its recordings, labels, patients and official splits are."""
