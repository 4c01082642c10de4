import csv
from collections import Counter

import numpy as np
import pytest
import wfdb
from scipy import signal

from fairseq_ecg.corpora import _beats, synthetic
from fairseq_ecg.corpora._dipole import DOWER, frontal_axis_deg, rotation, turn_to_axis
from fairseq_ecg.corpora._findings import RHYTHMS, checked_findings
from fairseq_ecg.corpora.synthetic import CODES, generate, simulate
from fairseq_ecg.data.leads import STANDARD_LEADS

PATIENTS = range(25)
RATE_HZ = 500
ROW = {lead: row for row, lead in enumerate(STANDARD_LEADS)}


def clean(patient, findings, **options):
    return simulate(3, patient, 0, findings=findings, noise=False, **options)


def beats_inside(ecg, kind=_beats.SINUS, before_s=0.5, after_s=0.6):
    """Sample numbers of the R peaks of one kind that have room on both sides."""
    times = ecg.peaks_s[ecg.kinds == kind]
    inside = (times > before_s) & (times < ecg.signal.duration_s - after_s)
    return np.rint(times[inside] * ecg.signal.rate_hz).astype(int)


def mean_beat(ecg, kind=_beats.SINUS, before_s=0.5, after_s=0.6):
    """Average of the beats, [12, T], and the sample number of its R peak."""
    before, after = round(before_s * RATE_HZ), round(after_s * RATE_HZ)
    values = ecg.signal.values_mv
    peaks = beats_inside(ecg, kind, before_s, after_s)
    return np.mean([values[:, p - before : p + after] for p in peaks], axis=0), before


def qrs_bounds(beat, peak):
    """First and last sample at which the leads together change at 15 % of their fastest."""
    speed = np.sqrt((np.diff(beat, axis=1) ** 2).mean(axis=0))
    start, stop = peak - round(0.11 * RATE_HZ), peak + round(0.14 * RATE_HZ)
    fast = np.flatnonzero(speed[start:stop] > 0.15 * speed[start:stop].max())
    return start + fast[0], start + fast[-1] + 1


def p_onset(beat, qrs_start):
    """Where the P wave before the QRS reaches a fifth of its height."""
    size = np.sqrt((beat**2).mean(axis=0))
    start = qrs_start - round(0.36 * RATE_HZ)
    window = size[start : qrs_start - round(0.02 * RATE_HZ)] - size[start : start + 5].min()
    return start + np.flatnonzero(window > 0.2 * window.max())[0]


def net_axis_deg(beat, start, stop):
    """Electrical axis from the net area of the QRS in leads I and aVF."""
    base = beat[:, start - 4 : start].mean(axis=1, keepdims=True)
    area = (beat[:, start:stop] - base).sum(axis=1)
    return np.rad2deg(np.arctan2(area[ROW["aVF"]] * 2 / np.sqrt(3), area[ROW["I"]]))


def intervals(ecg):
    inside = (ecg.peaks_s > 0) & (ecg.peaks_s < ecg.signal.duration_s)
    return np.diff(ecg.peaks_s[inside])


@pytest.mark.parametrize("noise", [False, True])
def test_einthoven_and_goldberger_hold_in_every_record(noise):
    for patient in range(6):
        values = simulate(0, patient, 0, noise=noise).signal.values_mv.astype(np.float64)
        one, two, three, avr, avl, avf = values[:6]
        for ours, expected in (
            (three, two - one),
            (avr, -(one + two) / 2),
            (avl, (one - three) / 2),
            (avf, (two + three) / 2),
        ):
            np.testing.assert_allclose(ours, expected, atol=2e-6)
        assert np.ptp(values, axis=1).min() > 0.05


def test_the_true_peaks_are_where_the_signal_is_largest():
    for patient in PATIENTS:
        ecg = clean(patient, ["NSR"])
        size = np.abs(ecg.signal.values_mv).max(axis=0)
        for peak in beats_inside(ecg):
            near = size[peak - 200 : peak + 200]
            assert abs(int(near.argmax()) - 200) <= 0.02 * RATE_HZ


@pytest.mark.parametrize(
    ("rhythm", "low", "high"), [("NSR", 60, 100), ("SB", 0, 60), ("STach", 100, 160)]
)
def test_sinus_rhythms_have_their_rates_and_are_regular(rhythm, low, high):
    for patient in PATIENTS:
        rr = intervals(clean(patient, [rhythm], duration_s=20))
        assert low < 60 / rr.mean() < high
        assert rr.std() / rr.mean() < 0.08


def test_fibrillation_is_irregular_and_has_waves_instead_of_p():
    for patient in PATIENTS:
        ecg = clean(patient, ["AF"], duration_s=20)
        rr = intervals(ecg)
        assert rr.std() / rr.mean() > 0.15
        assert np.sqrt(np.mean(np.diff(rr) ** 2)) / rr.mean() > 0.15
        assert rr.min() > 0.29
        sinus, peak = mean_beat(clean(patient, ["SB"], duration_s=60), after_s=0.4)
        fibrillating, _ = mean_beat(
            clean(patient, ["AF"], duration_s=60), _beats.FIBRILLATION, after_s=0.4
        )
        before_qrs = slice(peak - 110, peak - 30)
        wave, waves = (
            signal.detrend(beat[ROW["II"], before_qrs]) for beat in (sinus, fibrillating)
        )
        # Averaged over the beats a P wave would stay, unsynchronised waves vanish.
        assert abs(waves @ wave) < 0.25 * (wave @ wave)
    spectra = [atrial_peak_hz(clean(patient, ["AF"], duration_s=20)) for patient in PATIENTS]
    assert 4 < np.median(spectra) < 9


def atrial_peak_hz(ecg):
    """Strongest frequency above 3.5 Hz of V1 between the beats."""
    v1 = ecg.signal.values_mv[ROW["V1"]].astype(np.float64).copy()
    for peak in np.rint(ecg.peaks_s * RATE_HZ).astype(int):
        v1[max(peak - 40, 0) : max(peak + 200, 0)] = 0
    power = np.abs(np.fft.rfft(v1)) ** 2
    frequency = np.fft.rfftfreq(len(v1), 1 / RATE_HZ)
    band = (frequency > 3.5) & (frequency < 12)
    return frequency[band][power[band].argmax()]


def test_qrs_is_narrow_normally_and_wide_in_bundle_branch_block():
    for patient in PATIENTS:
        for findings, low, high in (
            (["NSR"], 0.065, 0.110),
            (["SB", "LAD"], 0.065, 0.110),
            (["NSR", "RBBB"], 0.120, 0.180),
            (["NSR", "LBBB"], 0.120, 0.200),
        ):
            start, stop = qrs_bounds(*mean_beat(clean(patient, findings)))
            assert low < (stop - start) / RATE_HZ < high, (patient, findings)


def test_right_bundle_branch_block_ends_in_r_prime_in_v1_and_s_in_i_and_v6():
    for patient in PATIENTS:
        beat, peak = mean_beat(clean(patient, ["NSR", "RBBB"]))
        start, stop = qrs_bounds(beat, peak)
        beat = beat - beat[:, start - 4 : start].mean(axis=1, keepdims=True)
        late = beat[:, peak + round(0.03 * RATE_HZ) : stop]
        assert late[ROW["V1"]].max() > 0.25
        assert late[ROW["V1"]].max() > beat[ROW["V1"], start:peak].max()
        assert beat[ROW["V1"], peak - 5 : peak + 15].min() < -0.1
        assert late[ROW["I"]].min() < -0.1
        assert late[ROW["V6"]].min() < -0.15


def test_left_bundle_branch_block_has_no_q_in_v6_and_a_deep_s_in_v1_with_opposite_t():
    for patient in PATIENTS:
        beat, peak = mean_beat(clean(patient, ["NSR", "LBBB"]))
        start, stop = qrs_bounds(beat, peak)
        beat = beat - beat[:, start - 4 : start].mean(axis=1, keepdims=True)
        qrs, after = beat[:, start:stop], beat[:, stop + 20 : stop + 120]
        assert qrs[ROW["V6"], : qrs[ROW["V6"]].argmax()].min() > -0.02
        assert qrs[ROW["V6"]].max() > 0.4
        assert qrs[ROW["V1"]].min() < -0.5
        assert qrs[ROW["V1"]].max() < 0.3 * -qrs[ROW["V1"]].min()
        assert after[ROW["V1"]].max() > 0.15
        assert after[ROW["V6"]].min() < -0.1


def test_pr_is_above_200_ms_only_in_first_degree_block():
    # At slow rates the T wave before is over when P begins.
    for patient in PATIENTS:
        for findings, low, high in ((["SB"], 0.10, 0.20), (["SB", "IAVB"], 0.20, 0.34)):
            beat, peak = mean_beat(clean(patient, findings))
            start = qrs_bounds(beat, peak)[0]
            assert low < (start - p_onset(beat, start)) / RATE_HZ < high, (patient, findings)


def test_the_axis_is_left_of_minus_30_degrees_only_in_left_axis_deviation():
    for patient in PATIENTS:
        beat, peak = mean_beat(clean(patient, ["NSR"]))
        assert -30 < net_axis_deg(beat, *qrs_bounds(beat, peak)) < 90
        beat, peak = mean_beat(clean(patient, ["NSR", "LAD"]))
        assert -90 < net_axis_deg(beat, *qrs_bounds(beat, peak)) < -30
        qrs = slice(*qrs_bounds(beat, peak))
        assert beat[ROW["I"], qrs].max() > -beat[ROW["I"], qrs].min()
        assert -beat[ROW["aVF"], qrs].min() > beat[ROW["aVF"], qrs].max()


def test_t_is_inverted_in_neighbouring_leads_only_where_labelled():
    neighbours = [
        ("V2", "V3"),
        ("V3", "V4"),
        ("V4", "V5"),
        ("V5", "V6"),
        ("I", "aVL"),
        ("II", "aVF"),
    ]

    def inverted(findings, patient):
        beat, peak = mean_beat(clean(patient, findings))
        base = beat[:, peak + 50 : peak + 55].mean(axis=1)
        wave = beat[:, peak + 90 : peak + 180] - base[:, None]
        depth = {lead: -wave[row].min() for lead, row in ROW.items()}
        return any(depth[a] > 0.1 and depth[b] > 0.1 for a, b in neighbours)

    for patient in PATIENTS:
        assert inverted(["NSR", "TInv"], patient)
        assert not inverted(["NSR"], patient)


def test_a_ventricular_premature_beat_is_wide_early_and_followed_by_a_full_pause():
    for patient in PATIENTS:
        ecg = clean(patient, ["NSR", "PVC"], duration_s=15)
        assert "PVC" in ecg.findings
        regular = 60 / np.median(60 / intervals(ecg))
        for index in np.flatnonzero(ecg.kinds == _beats.VENTRICULAR):
            early, pause = np.diff(ecg.peaks_s[index - 1 : index + 2])
            assert early < 0.8 * regular
            assert early + pause == pytest.approx(2 * regular, rel=0.12)
        beat, peak = mean_beat(ecg, _beats.VENTRICULAR, before_s=0.3, after_s=0.5)
        start, stop = qrs_bounds(beat, peak)
        assert (stop - start) / RATE_HZ > 0.12


def test_an_atrial_premature_beat_is_narrow_early_and_resets_the_sinus_node():
    for patient in PATIENTS:
        ecg = clean(patient, ["NSR", "PAC"], duration_s=15)
        regular = 60 / np.median(60 / intervals(ecg))
        for index in np.flatnonzero(ecg.kinds == _beats.ATRIAL):
            early, pause = np.diff(ecg.peaks_s[index - 1 : index + 2])
            assert early < 0.8 * regular
            assert early + pause < 1.95 * regular
            assert pause > 0.93 * regular
        beat, peak = mean_beat(ecg, _beats.ATRIAL)
        start, stop = qrs_bounds(beat, peak)
        assert (stop - start) / RATE_HZ < 0.110


def test_amplitudes_are_those_of_adults():
    largest = [np.ptp(clean(p, ["NSR"]).signal.values_mv, axis=1).max() for p in PATIENTS]
    assert min(largest) > 0.8
    assert max(largest) < 4.5


def test_noise_is_small_and_different_in_every_record():
    quiet, noisy = (simulate(0, 1, 0, findings=["NSR"], noise=n).signal.values_mv for n in (0, 1))
    deviation = (noisy - quiet).std(axis=1)
    assert (deviation > 0.002).all()
    assert (deviation < 0.3).all()


def test_records_depend_on_seed_patient_and_record_alone():
    first = simulate(7, 4, 1)
    for other in ((8, 4, 1), (7, 5, 1), (7, 4, 0)):
        assert not np.array_equal(simulate(*other).signal.values_mv, first.signal.values_mv)
    again = simulate(7, 4, 1)
    np.testing.assert_array_equal(again.signal.values_mv, first.signal.values_mv)
    assert (again.findings, again.age, again.female) == (first.findings, first.age, first.female)
    assert simulate(7, 4, 0).age == first.age


def test_two_records_of_a_patient_are_more_alike_than_those_of_two_patients():
    def shape(patient, record):
        beat, _ = mean_beat(
            simulate(0, patient, record, findings=["NSR"], noise=False), after_s=0.4
        )
        return beat[:, 200:350].ravel()

    same = [np.corrcoef(shape(p, 0), shape(p, 1))[0, 1] for p in range(8)]
    other = [np.corrcoef(shape(p, 0), shape(p + 1, 0))[0, 1] for p in range(8)]
    assert min(same) > 0.98
    assert np.mean(other) < 0.95


def test_a_signal_is_the_same_function_of_time_at_every_rate():
    fast, slow = (clean(2, ["NSR", "PVC"], rate_hz=rate).signal for rate in (1000, 250))
    np.testing.assert_allclose(fast.values_mv[:, ::4], slow.values_mv, atol=2e-3)
    assert (slow.rate_hz, slow.n_samples) == (250.0, 2500)


def test_drawn_findings_are_compatible_frequent_enough_and_hold_one_rhythm():
    drawn = [
        set(simulate(0, p, 0, rate_hz=50, duration_s=10, noise=False).findings) for p in range(300)
    ]
    counts = Counter(name for findings in drawn for name in findings)
    assert min(counts[name] for name in CODES) > 0.06 * len(drawn)
    assert any(len(findings) >= 3 for findings in drawn)
    for findings in drawn:
        assert len(findings & set(RHYTHMS)) == 1
        assert checked_findings(findings) == findings


def test_a_premature_beat_that_does_not_fit_is_not_labelled():
    ecg = clean(0, ["SB", "PVC"], duration_s=2)
    assert ecg.findings == ("SB",)
    assert (ecg.kinds == _beats.SINUS).all()


@pytest.mark.parametrize(
    ("findings", "message"),
    [
        (["NSR", "WPW"], "WPW"),
        (["NSR", "AF"], "AF and NSR"),
        (["NSR", "LBBB", "RBBB"], "LBBB and RBBB"),
        (["RBBB"], "one rhythm"),
        ([], "one rhythm"),
    ],
)
def test_impossible_findings_are_refused(findings, message):
    with pytest.raises(ValueError, match=message):
        simulate(0, 0, 0, findings=findings)


@pytest.mark.parametrize("options", [{"rate_hz": 10}, {"duration_s": 1}, {"rate_hz": float("nan")}])
def test_sampling_out_of_range_is_refused(options):
    name, value = next(iter(options.items()))
    with pytest.raises(ValueError, match=f"{name} must .* is {value}"):
        simulate(0, 0, 0, **options)


@pytest.mark.parametrize("numbers", [(-1, 0, 0), (0, -1, 0), (0, 0, -1)])
def test_negative_numbers_are_refused_by_name(numbers):
    name = ("seed", "patient", "record")[numbers.index(-1)]
    with pytest.raises(ValueError, match=f"{name} must not be negative"):
        simulate(*numbers)


@pytest.mark.parametrize("wanted", [-170, -60, 0, 45, 120])
def test_a_dipole_can_be_turned_to_any_axis(wanted):
    dipole = np.array([0.9, 0.3, 0.4])
    turned = turn_to_axis(dipole, DOWER, wanted) @ dipole
    assert frontal_axis_deg(turned, DOWER) == pytest.approx(wanted, abs=3)
    assert np.linalg.norm(turned) == pytest.approx(np.linalg.norm(dipole))
    np.testing.assert_allclose(rotation("z", 90) @ [1, 0, 0], [0, 1, 0], atol=1e-12)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made") / "ecgs"
    return folder, generate(folder, num_patients=4, records_per_patient=3, seed=5)


def test_wfdb_reads_the_files_back_as_they_were_made(folder):
    path, written = folder
    for entry, (patient, record) in zip(written, np.ndindex(4, 3), strict=True):
        made = simulate(5, patient, record)
        name = str(path / "training/synthetic/g1" / entry.record)
        read, raw = wfdb.rdrecord(name), wfdb.rdrecord(name, physical=False)
        assert tuple(read.sig_name) == STANDARD_LEADS
        assert (read.fs, read.sig_len, set(read.units)) == (500, 5000, {"mV"})
        np.testing.assert_allclose(read.p_signal.T, made.signal.values_mv, atol=0.00051)
        assert raw.init_value == raw.d_signal[0].tolist()
        sums = raw.d_signal.astype(np.int64).sum(axis=0)
        assert [c % 65536 for c in raw.checksum] == (sums % 65536).tolist()


def test_headers_carry_age_sex_and_the_codes_of_the_findings(folder):
    path, written = folder
    for entry in written:
        text = (path / "training/synthetic/g1" / f"{entry.record}.hea").read_text("ascii")
        codes = ",".join(CODES[name] for name in entry.findings)
        assert f"\n# Dx: {codes}\n" in text
        assert "\n# Sex: Male\n" in text or "\n# Sex: Female\n" in text
        assert 18 <= int(text.split("# Age: ")[1].split("\n")[0]) <= 92


def test_lists_name_every_record_and_its_patient(folder):
    path, written = folder
    assert [entry.record for entry in written] == [f"SY{n:05d}" for n in range(1, 13)]
    names = (path / "training/synthetic/g1/RECORDS").read_text("ascii").splitlines()
    assert names == [entry.record for entry in written]
    with (path / "records.csv").open(encoding="utf-8", newline="") as file:
        table = [(row["record"], row["patient"]) for row in csv.DictReader(file)]
    assert table == [(entry.record, entry.patient) for entry in written]
    assert Counter(patient for _, patient in table) == {f"P{n:05d}": 3 for n in range(1, 5)}


def test_groups_hold_a_limited_number_of_records(tmp_path, monkeypatch):
    monkeypatch.setattr(synthetic, "_RECORDS_PER_GROUP", 4)
    generate(tmp_path / "made", 3, 3, rate_hz=50, duration_s=2)
    sizes = [
        len(list((tmp_path / f"made/training/synthetic/g{g}").glob("*.dat"))) for g in (1, 2, 3)
    ]
    assert sizes == [4, 4, 1]


def test_the_same_seed_writes_the_same_bytes(tmp_path, folder):
    path, _ = folder
    generate(tmp_path / "again", num_patients=4, records_per_patient=3, seed=5)
    files = sorted(p.relative_to(path) for p in path.rglob("*") if p.is_file())
    assert len(files) == 26
    for file in files:
        assert (tmp_path / "again" / file).read_bytes() == (path / file).read_bytes()


def test_a_folder_with_content_is_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("x", "ascii")
    with pytest.raises(ValueError, match="empty folder"):
        generate(tmp_path, 1, 1)
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


def test_an_interrupted_run_leaves_nothing_behind(tmp_path, monkeypatch):
    def fail(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(synthetic, "_write_lists", fail)
    with pytest.raises(KeyboardInterrupt):
        generate(tmp_path / "made", 1, 1, rate_hz=50, duration_s=2)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["num_patients", "records_per_patient"])
def test_counts_below_one_are_refused(tmp_path, name):
    with pytest.raises(ValueError, match=f"{name} .* is 0"):
        generate(tmp_path / "made", **{name: 0})
    assert list(tmp_path.iterdir()) == []
