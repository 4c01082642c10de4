"""Made-up recordings laid out as CinC 2017: the table of classes, and short records at 300 Hz."""

import numpy as np

from tests.builds import make_adu, write_record


def reference_of(counts, seed=0):
    classes = [name for name, count in counts.items() for _ in range(count)]
    drawn = np.random.default_rng(seed).permutation(classes)
    return {f"A{i:05d}": str(name) for i, name in enumerate(drawn, start=1)}


def write_reference(path, reference):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{record},{label}\n" for record, label in reference.items()))
    return path


def write_corpus(root, reference, missing=()):
    """Write the table and short recordings at 300 Hz with the one lead that is called ECG."""
    for number, record in enumerate(reference):
        if record not in missing:
            adu = make_adu(number, n_leads=1, n_samples=600 + 30 * number)
            write_record(root / "training2017", record, adu, 300, ("ECG",))
    write_reference(root / "REFERENCE-v3.csv", reference)
    return root
