"""Folders of fairseq-signals packed: the same batches, bit for bit, and clear refusals."""

import multiprocessing
import os
import signal

import numpy as np
import pandas as pd
import pytest
import torch

from fairseq_ecg.data.builder import BuildError
from fairseq_ecg.data.ledger import read_ledger
from fairseq_ecg.data.manifest import ManifestError, read_manifest
from fairseq_ecg.data.sources import open_source
from fairseq_ecg.data.store import Store
from fairseq_ecg.interop.pack import PackError, pack
from tests.builds import contents
from tests.recordings import batch, load, make_task, write_mat

STATISTICS = {"mean": np.zeros((12, 1)), "std": np.ones((12, 1))}
LABELS = np.array([[1, 0, 0], [0, 1, 1], [0, 0, 0], [1, 1, 1]], dtype=np.float64)


def rough(seed, n_samples=50):
    """Draw values that 16 bits do not hold, float64 [12, T]."""
    return np.random.default_rng(seed).normal(0, 1, (12, n_samples))


def write_segments(folder, **fields):
    """Write segments 0 to 2 of four recordings of two patients each in rough numbers."""
    for record in range(4):
        for number in range(3):
            values = rough(10 * record + number)
            content = {name: value(record) for name, value in fields.items()}
            write_mat(
                folder / "mat" / f"r{record}_{number}.mat",
                record, 0, 50, feats=values, **content,
            )  # fmt: skip
    return [f"r{record}_{number}.mat" for record in (3, 0, 2, 1) for number in range(3)]


def write_plain(folder, names, root=None, splits=("train", "valid"), lead_tab=False):
    lines = [("\t" if lead_tab else "") + str(root or folder / "mat")]
    lines += [f"{name}\t50" for name in names]
    for split in splits:
        (folder / f"{split}.tsv").write_text("\n".join(lines) + "\n")
    return folder


def older(folder, **options):
    """Write a folder of the older preprocessing: millivolts, patients and labels in the files."""
    names = write_segments(folder, patient_id=lambda r: 70 + r // 2, label=lambda r: LABELS[r])
    return write_plain(folder, names, **options)


def newer(folder, names=("x", "y", "z"), **options):
    """Write a folder of the newer one: standardised, numbered, with a label array."""
    files = write_segments(
        folder, idx=lambda r: r, mean=lambda r: STATISTICS["mean"], std=lambda r: STATISTICS["std"]
    )
    (folder / "labels").mkdir()
    np.save(folder / "labels" / "y.npy", LABELS)
    rows = "".join(f"{name},1\n" for name in names)
    (folder / "labels" / "label_def.csv").write_text(f"name,pos_count_all\n{rows}")
    return write_plain(folder, files, lead_tab=True, **options)


def write_cmsc(folder):
    """Rewrite the manifests as those of pairs, in an order of their own."""
    text = f"{folder / 'mat'}\nmat\nr2\t50\t0\t0,1\nr0\t50\t0\t1,2\nr3\t50\t0\t0,1\n"
    for split in ("train", "valid"):
        (folder / f"{split}.tsv").write_text(text)
    return folder


def assert_same_batches(one, other):
    assert len(one) == len(other)
    np.testing.assert_array_equal(one.ordered_indices(), other.ordered_indices())
    for indices in ([0], range(len(one)), list(range(len(one)))[::-2]):
        a, b = batch(one, indices), batch(other, indices)
        assert a.keys() == b.keys()
        for key, value in a.items():
            if key != "net_input":
                assert torch.equal(value, b[key]), key
        assert a["net_input"].keys() == b["net_input"].keys()
        for key, value in a["net_input"].items():
            assert torch.equal(value, b["net_input"][key]), key


# --- the same batches -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [older, newer])
def test_pretraining_on_pairs_gets_the_batches_of_the_folder(tmp_path, kind):
    folder = write_cmsc(kind(tmp_path / "in"))
    pack(folder, tmp_path / "out")
    keys = {"views": "cmsc", "segment_s": None}
    folders, packed = (
        load(make_task("ecg_pretraining", data, **keys)) for data in (folder, tmp_path / "out")
    )
    assert_same_batches(folders, packed)
    assert batch(packed)["net_input"]["source"].shape == (6, 12, 50)


@pytest.mark.parametrize("kind", [older, newer])
def test_pretraining_on_segments_gets_the_batches_of_the_folder(tmp_path, kind):
    folder = kind(tmp_path / "in")
    pack(folder, tmp_path / "out")
    assert_same_batches(
        *(load(make_task("ecg_pretraining", data)) for data in (folder, tmp_path / "out"))
    )


def test_classification_gets_the_labels_inside_the_files(tmp_path):
    folder = older(tmp_path / "in")
    pack(folder, tmp_path / "out")
    tasks = [make_task("ecg_classification", d) for d in (folder, tmp_path / "out" / "labels")]
    folders, packed = (load(task, "valid") for task in tasks)
    assert_same_batches(folders, packed)
    assert tasks[1].label_names == ["class_0", "class_1", "class_2"]


def test_classification_gets_the_label_array_and_its_names(tmp_path):
    folder = newer(tmp_path / "in")
    pack(folder, tmp_path / "out")
    array = str(folder / "labels" / "y.npy")
    tasks = [
        make_task("ecg_classification", folder, label_file=array),
        make_task("ecg_classification", tmp_path / "out" / "labels"),
    ]
    assert tasks[0].label_names == tasks[1].label_names == ["x", "y", "z"]
    folders, packed = (load(task, "valid") for task in tasks)
    assert_same_batches(folders, packed)
    np.testing.assert_array_equal(
        batch(packed)["label"].numpy(), LABELS[np.repeat([3, 0, 2, 1], 3)].astype(np.float32)
    )


def test_identification_manifests_stay_what_they_are(tmp_path):
    folder = older(tmp_path / "in")
    rows = "".join(f"r{r}_0.mat\t50\t{r // 2}\n" for r in range(4))
    for name in ("train", "valid_gallery"):
        (folder / f"{name}.tsv").write_text(f"{folder / 'mat'}\n{rows}")
    pack(folder, tmp_path / "out")
    for name in ("train", "valid_gallery"):
        manifest = read_manifest(tmp_path / "out" / f"{name}.tsv")
        assert (manifest.kind, manifest.labels) == ("identification", ["0", "0", "1", "1"])
        source = open_source(manifest)
        for record in range(4):
            np.testing.assert_array_equal(
                source.read(record, 0, 50), rough(10 * record).astype(np.float32)
            )


# --- what the store says --------------------------------------------------------------------------


def test_units_patients_and_splits_are_kept(tmp_path):
    folder = older(tmp_path / "in")
    (folder / "valid.tsv").write_text(f"{folder / 'mat'}\nr1_1.mat\t50\n")
    pack(folder, tmp_path / "old")
    store = Store(tmp_path / "old" / "store")
    assert (store.unit, store.rate_hz, store.meta["dtype"]) == ("mV", 100, "float32")
    assert store.patients == ["70"] * 6 + ["71"] * 6
    assert store.groups.tolist() == [70] * 6 + [71] * 6
    assert set(store.index["split"]) == {"train"}
    pack(newer(tmp_path / "in2"), tmp_path / "new")
    store = Store(tmp_path / "new" / "store")
    assert store.unit == "standard deviations"
    assert store.groups.tolist() == np.repeat(range(4), 3).tolist()
    assert store.patients == [f"recording-{r}" for r in range(4) for _ in range(3)]


def test_patients_of_the_table_come_first(tmp_path):
    folder = newer(tmp_path / "in")
    (folder / "meta.csv").write_text(
        ",idx,save_file,subject_id,age,is_male\n"
        + "".join(f"{r},{r},r{r}.mat,s{r % 2},6{r},{r == 1}\n" for r in range(4))
    )
    pack(folder, tmp_path / "out")
    index = Store(tmp_path / "out" / "store").index
    assert index["patient"].tolist() == [f"s{r % 2}" for r in range(4) for _ in range(3)]
    assert index["age"].tolist()[::3] == [60, 61, 62, 63]
    assert index["sex"].tolist()[::3] == ["female", "male", "female", "female"]


def test_flat_segments_are_kept_as_the_folder_keeps_them(tmp_path):
    folder = older(tmp_path / "in")
    write_mat(folder / "mat" / "r0_0.mat", 0, 0, 50, feats=np.zeros((12, 50)), patient_id=70,
              label=LABELS[0])  # fmt: skip
    report = pack(folder, tmp_path / "out")
    assert "r0_0.mat" in report.store.records
    assert (report.store.read(report.store.row_of("r0_0.mat")) == 0).all()


def test_pairs_are_made_of_plain_manifests(tmp_path):
    pack(newer(tmp_path / "in"), tmp_path / "out")
    manifest = read_manifest(tmp_path / "out" / "cmsc" / "train.tsv")
    assert manifest.kind == "cmsc"
    assert dict(zip(manifest.paths, manifest.segments, strict=True)) == {
        f"r{r}": [0, 1] for r in range(4)
    }
    assert open_source(manifest).n_samples.tolist() == [50] * 8


def test_the_empty_files_that_the_older_tools_leave_are_passed_over(tmp_path):
    folder = older(tmp_path / "in", splits=("train",))
    (folder / "valid.tsv").write_text("")
    assert list(pack(folder, tmp_path / "out").summary["manifests"]) == ["train"]


def test_manifests_of_several_roots_are_joined(tmp_path):
    folder = older(tmp_path / "in", splits=("train",))
    write_mat(tmp_path / "other" / "q.mat", 1, 0, 50, patient_id=9, label=LABELS[0])
    (folder / "valid.tsv").write_text(f"{tmp_path / 'other'}\nq.mat\t50\n")
    pack(folder, tmp_path / "out")
    assert read_manifest(tmp_path / "out" / "valid.tsv").paths == ["other/q.mat"]
    assert read_manifest(tmp_path / "out" / "train.tsv").paths[0] == "in/mat/r3_0.mat"
    assert open_source(read_manifest(tmp_path / "out" / "valid.tsv")).identity(0) == 9


# --- tables instead of manifests ------------------------------------------------------------------


def without_manifests(folder):
    """Turn a folder into one whose manifests were not written yet."""
    for path in folder.glob("*.tsv"):
        path.unlink()
    (folder / "mat").rename(folder / "segmented")
    splits = ["train", "train", "valid", "test"]
    pd.DataFrame(
        {"idx": range(4), "save_file": [f"r{r}.mat" for r in range(4)], "split": splits}
    ).to_csv(folder / "meta_split.csv", index=False)
    rows = [(f"r{r}_{n}.mat", f"r{r}.mat", 50) for r in range(4) for n in range(3)]
    pd.DataFrame(rows, columns=["path", "save_file", "sample_size"]).to_csv(
        folder / "segmented.csv"
    )
    return folder


def test_tables_serve_where_no_manifests_are(tmp_path):
    folder = without_manifests(newer(tmp_path / "in"))
    summary = pack(folder, tmp_path / "out").summary
    assert {name: facts["lines"] for name, facts in summary["manifests"].items()} == {
        "train": 6, "valid": 3, "test": 3,
    }  # fmt: skip
    split = pd.read_csv(folder / "meta_split.csv").merge(pd.read_csv(folder / "segmented.csv"))
    split.to_csv(folder / "segmented_split.csv", index=False)
    (folder / "meta_split.csv").unlink()
    assert pack(folder, tmp_path / "out").was_finished
    assert read_manifest(tmp_path / "out" / "labels" / "test.tsv").labels == ["x;y;z"] * 3


def test_the_public_output_of_ten_exams(shared, tmp_path):
    root = shared / "data" / "code-15-reference-output"
    report = pack(root, tmp_path / "out")
    assert (report.summary["segments_kept"], report.summary["unit"]) == (14, "standard deviations")
    assert report.summary["manifests"]["test"]["recordings_with_pairs"] == 4
    assert set(report.store.patients) == set(
        pd.read_csv(root / "meta.csv")["patient_id"].astype(str)
    )
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "test.tsv").write_text(
        f"\t{root / 'segmented'}\n"
        + "".join(f"{p}\t2500\n" for p in read_manifest(tmp_path / "out" / "test.tsv").paths)
    )
    tasks = [
        make_task("ecg_classification", folder, label_file=str(root / "labels" / "y.npy")),
        make_task("ecg_classification", tmp_path / "out" / "labels"),
    ]
    assert tasks[0].label_names[0] == "is_male"
    assert_same_batches(*(load(task, "test") for task in tasks))


# --- stopped, broken and wrong --------------------------------------------------------------------


def _pack_and_die(folder, dest, replaces):
    count = 0
    real_replace = os.replace

    def replace(source, target):
        nonlocal count
        count += 1
        if count > replaces:
            os.kill(os.getpid(), signal.SIGKILL)
        real_replace(source, target)

    os.replace = replace
    pack(folder, dest)


@pytest.mark.parametrize("replaces", [1, 4, 8])
def test_a_run_that_was_killed_goes_on_to_the_same_bytes(tmp_path, replaces):
    folder = newer(tmp_path / "in")
    pack(folder, tmp_path / "whole")
    context = multiprocessing.get_context("forkserver")
    process = context.Process(target=_pack_and_die, args=(folder, tmp_path / "out", replaces))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    assert not (tmp_path / "out" / "summary.json").exists()
    pack(folder, tmp_path / "out")
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_segments_that_cannot_be_read_are_in_the_ledger_and_in_no_manifest(tmp_path):
    folder = newer(tmp_path / "in")
    (folder / "mat" / "r0_1.mat").write_bytes(b"not a mat file" * 50)
    (folder / "mat" / "r1_0.mat").unlink()
    write_mat(folder / "mat" / "r2_2.mat", 2, 0, 50, rate_hz=200, idx=2, **STATISTICS)
    report = pack(folder, tmp_path / "out")
    found = {row.record: row.reason for row in read_ledger(tmp_path / "out" / "ledger.csv")}
    assert found == {
        "r0_1.mat": "bad_mat", "r1_0.mat": "missing_file", "r2_2.mat": "wrong_rate",
    }  # fmt: skip
    assert report.summary["manifests"]["train"]["lines_left_out"] == 3
    assert len(read_manifest(tmp_path / "out" / "labels" / "train.tsv")) == 9


def test_a_pair_that_lost_a_segment_is_left_out(tmp_path):
    folder = write_cmsc(newer(tmp_path / "in"))
    (folder / "mat" / "r2_1.mat").unlink()
    report = pack(folder, tmp_path / "out")
    assert read_manifest(tmp_path / "out" / "train.tsv").paths == ["r0", "r3"]
    assert report.summary["manifests"]["train"]["lines_left_out"] == 1


def test_overwriting_leaves_no_manifest_of_before(tmp_path):
    folder = newer(tmp_path / "in")
    pack(folder, tmp_path / "out")
    (folder / "valid.tsv").rename(folder / "test.tsv")
    with pytest.raises(BuildError, match="differently|changed"):
        pack(older(tmp_path / "in2"), tmp_path / "out")
    pack(folder, tmp_path / "out", overwrite=True)
    assert not (tmp_path / "out" / "valid.tsv").exists()
    assert not (tmp_path / "out" / "cmsc" / "valid.tsv").exists()
    assert (tmp_path / "out" / "labels" / "test.tsv").exists()


def edit(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


@pytest.mark.parametrize(
    ("file", "old", "new", "match"),
    [
        ("segmented.csv", "sample_size", "n", r"segmented\.csv has no column 'sample_size'"),
        ("meta_split.csv", "split", "part", r"meta_split\.csv has no column 'split'"),
        ("meta_split.csv", "r0.mat", "r1.mat", r"meta_split\.csv: save_file 'r1\.mat' occurs more"),
        ("meta_split.csv", "train", "", r"meta_split\.csv, line 2: the column split is empty"),
        ("segmented.csv", ",50", ",many", "sample_size of a segment must be a whole number"),
        ("labels/label_def.csv", "x,1\n", "", r"label_def\.csv names 2 classes"),
        ("labels/label_def.csv", "x,", "x;y,", "class name 'x;y' cannot be written"),
    ],
)
def test_bad_tables_are_refused_by_file_and_column(tmp_path, file, old, new, match):
    folder = without_manifests(newer(tmp_path / "in"))
    edit(folder / file, old, new)
    with pytest.raises(ValueError, match=match):
        pack(folder, tmp_path / "out")


def test_folders_of_something_else_are_refused(tmp_path):
    with pytest.raises(PackError, match="does not exist"):
        pack(tmp_path / "nothing", tmp_path / "out")
    with pytest.raises(PackError, match="neither manifests"):
        pack(tmp_path, tmp_path / "out")
    (tmp_path / "train.tsv").write_text(f"{tmp_path}\n")
    with pytest.raises(PackError, match="list no segment"):
        pack(tmp_path, tmp_path / "out")
    (tmp_path / "train.tsv").write_text(f"{tmp_path}\na.mat\tten\n")
    with pytest.raises(ManifestError, match=r"train\.tsv, line 2"):
        pack(tmp_path, tmp_path / "out")
    (tmp_path / "train.tsv").write_text(f"{tmp_path}\na.mat\t10\n")
    with pytest.raises(PackError, match=r"no segment of .* can be read; the first: .*a\.mat"):
        pack(tmp_path, tmp_path / "out")


def test_labels_that_are_no_classes_are_refused(tmp_path):
    folder = newer(tmp_path / "in")
    np.save(folder / "labels" / "y.npy", LABELS * 0.5)
    with pytest.raises(PackError, match=r"y\.npy: labels must be 0 or 1, but row 0, column 0"):
        pack(folder, tmp_path / "out")
    np.save(tmp_path / "y.npy", LABELS)
    with pytest.raises(PackError, match="needs segments with idx"):
        pack(older(tmp_path / "in2"), tmp_path / "out", labels=tmp_path / "y.npy")


def test_lengths_that_contradict_each_other_are_refused(tmp_path):
    folder = older(tmp_path / "in")
    edit(folder / "valid.tsv", "r0_0.mat\t50", "r0_0.mat\t40")
    with pytest.raises(PackError, match=r"valid\.tsv says that r0_0\.mat has 40 samples"):
        pack(folder, tmp_path / "out")
