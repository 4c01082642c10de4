"""The verbs of ``fairseq-ecg``, one file each; every verb is also a plain function elsewhere."""
