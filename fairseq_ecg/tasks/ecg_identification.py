"""Patient identification: learn whose recording it is, find the patient again among others.

Oh et al., CHIL 2022, PMLR 174:338-353, Section 4: training tells the patients of ``train.tsv``
apart; a validation gives each recording of ``<split>_probe.tsv`` to the patient of the most similar
recording of ``<split>_gallery.tsv``.
"""

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, List, Optional, Set

import numpy as np
from fairseq.dataclass import ChoiceEnum, FairseqDataclass
from fairseq.tasks import register_task

from fairseq_ecg.data.dataset import BaseEcgDataset
from fairseq_ecg.data.manifest import LABELS_FILE, Manifest, read_manifest
from fairseq_ecg.data.sources import Source
from fairseq_ecg.data.windows import Windows, spread_windows
from fairseq_ecg.data.wrappers import LabelledDataset, ProbesAndGallery
from fairseq_ecg.tasks._base import EcgTask
from fairseq_ecg.tasks._config import EcgTaskConfig, word

logger = logging.getLogger(__name__)


@dataclass
class EcgIdentificationConfig(EcgTaskConfig):
    """Keys of ``ecg_identification``."""

    score_per: ChoiceEnum(["segment", "record"]) = field(  # type: ignore[valid-type]
        default="segment",
        metadata={"help": "validate the middle segment of each recording, or the mean of all"},
    )


@register_task("ecg_identification", dataclass=EcgIdentificationConfig)
class EcgIdentificationTask(EcgTask):
    """Items are segments with the number of their patient as ``label``.

    The numbers are the third column of identification manifests. Those of training are classes,
    0 to P - 1; those of a probe and a gallery manifest belong together and to nothing else.
    """

    def __init__(self, cfg: EcgIdentificationConfig) -> None:
        super().__init__(cfg)
        self._num_labels: Optional[int] = None
        self._trained_on: Set[str] = set()
        self._evaluated: Set[str] = set()

    @classmethod
    def manifests_of(cls, split: str, training: bool) -> List[str]:
        """Return the split's own manifest, or those of its probes and its gallery."""
        return [split] if training else [f"{split}_probe", f"{split}_gallery"]

    @property
    def num_labels(self) -> Optional[int]:
        """Number of patients P of the training manifest, or None if it is not there."""
        if self._num_labels is None:
            path = Path(self.cfg.data) / f"{self._of_run('dataset.train_subset') or 'train'}.tsv"
            if path.is_file():
                self._num_labels = int(patients_of(read_manifest(path), path).max()) + 1
        return self._num_labels

    def build_criterion(self, cfg: FairseqDataclass, from_checkpoint: bool = False) -> Any:
        """Build the criterion and keep it: it computes the metrics of a validation."""
        self.criterion = super().build_criterion(cfg, from_checkpoint)
        return self.criterion

    def load_dataset(
        self,
        split: str,
        combine: bool = False,
        task_cfg: Optional[FairseqDataclass] = None,
        training: Optional[bool] = None,
        **kwargs: Any,
    ) -> None:
        """Open the manifest of a training split, or probe and gallery of another one.

        Args:
            split: Name of the manifest without ``_probe`` or ``_gallery``.
            combine: Not used, as ``task_cfg``; the engine passes them.
            task_cfg: Not used.
            training: As in ``EcgTask.load_dataset``.
            **kwargs: Not used.

        Raises:
            ValueError: If labels are no patient numbers, a patient is in the gallery twice, or a
                probe's patient is not in it.
        """
        if training is None:
            training = self._is_training(split)
        names = self.manifests_of(split, training)
        for name in names:
            super().load_dataset(name, training=training)
        if not training:
            self.datasets[split] = _matched(*(self.datasets[name] for name in names))
        self._report_known_people([self.dataset(n).dataset.source for n in names], training)

    def build_dataset(self, manifest: Manifest, source: Source, training: bool) -> BaseEcgDataset:
        """Return segments with the number of their patient."""
        patients = patients_of(manifest, f"a manifest of {manifest.root}")
        if training:
            unused = int(patients.max()) + 1 - len(np.unique(patients))
            if unused:
                logger.warning("%d patient numbers of the training manifest do not occur", unused)
        return LabelledDataset(self.segments(source, training), patients)

    def cut(self, n_samples: np.ndarray, window: Optional[int], training: bool) -> Windows:
        """Return all windows in training, else what ``task.score_per`` says."""
        per_record = word(self.cfg.score_per) == "record"
        if training or per_record:
            return super().cut(n_samples, window, training)
        return spread_windows(n_samples, window)

    def epoch_metrics(self, scores: Dict[str, np.ndarray]) -> Dict[str, float]:
        """Return the criterion's metrics over all recordings."""
        scores = average_embeddings(scores)
        return self.criterion.epoch_metrics(
            scores["embedding"], scores["label"], scores["gallery"] == 1
        )

    def _report_known_people(self, sources: List[Source], training: bool) -> None:
        """Warn of people who are trained on and evaluated, as far as the sources name them."""
        people = {person for source in sources for person in source.people()}
        (self._trained_on if training else self._evaluated).update(people)
        shared = people & (self._evaluated if training else self._trained_on)
        if shared:
            logger.warning(
                "%d patients are trained on and evaluated too (%s, ...); the accuracy says little "
                "about new ones",
                len(shared),
                min(shared),
            )


def patients_of(manifest: Manifest, name: object) -> np.ndarray:
    """Return the third column of an identification manifest, int64 [N].

    Args:
        manifest: The manifest.
        name: What it is called in messages.

    Raises:
        ValueError: If the third column is missing, or has names of classes.
    """
    if manifest.kind != "identification":
        found = f"class names ({LABELS_FILE})" if manifest.classes else f"a {manifest.kind} list"
        raise ValueError(
            f"{name} must have the number of the patient as third column, but is {found}; "
            "`fairseq-ecg identification` writes such manifests"
        )
    return np.array([int(label) for label in manifest.labels or ()], dtype=np.int64)


def check_gallery(
    probe: np.ndarray, gallery: np.ndarray, probe_names: List[str], gallery_names: List[str]
) -> None:
    """Check that each patient is in the gallery once, and each probe's patient is there.

    Args:
        probe: Patient of each probe, int64 [N].
        gallery: Patient of each gallery recording, int64 [M].
        probe_names: Recordings of the probes, [N].
        gallery_names: Recordings of the gallery, [M].

    Raises:
        ValueError: Naming the recording and its patient.
    """
    first, counts = np.unique(gallery, return_index=True, return_counts=True)[1:]
    repeated = np.flatnonzero(counts > 1)
    if repeated.size:
        patient = gallery[first[repeated[0]]]
        rows = np.flatnonzero(gallery == patient)
        raise ValueError(
            f"patient {patient} is in the gallery {len(rows)} times, as "
            f"{' and '.join(gallery_names[row] for row in rows[:2])}; leave one recording of each "
            "patient there"
        )
    missing = np.flatnonzero(~np.isin(probe, gallery))
    if missing.size:
        row = missing[0]
        raise ValueError(
            f"probe {probe_names[row]} is of patient {probe[row]}, who has no recording in the "
            f"gallery ({len(missing)} such probes); add one, or leave these probes out"
        )


def average_embeddings(scores: Dict[str, np.ndarray]) -> Dict[str, np.ndarray]:
    """Average the embeddings of the segments of each recording.

    Args:
        scores: ``record``, ``label`` and ``gallery`` int64 [N], ``embedding`` float [N, D].

    Returns:
        The same with one row per recording, in the order of ``record``; ``embedding`` float64, not
        of length 1 any more.
    """
    record, first, inverse = np.unique(scores["record"], return_index=True, return_inverse=True)
    total = np.zeros((len(record), scores["embedding"].shape[1]))
    np.add.at(total, inverse, scores["embedding"])
    return {
        "record": record,
        "label": scores["label"][first],
        "gallery": scores["gallery"][first],
        "embedding": total / np.bincount(inverse)[:, None],
    }


def _matched(probes: LabelledDataset, gallery: LabelledDataset) -> ProbesAndGallery:
    of_probes, of_gallery = probes.dataset.source, gallery.dataset.source
    if of_probes.rate_hz != of_gallery.rate_hz:
        raise ValueError(
            f"probes have {of_probes.rate_hz:g} Hz, the gallery {of_gallery.rate_hz:g} Hz; build "
            "both with one rate: `fairseq-ecg manifest ... --rate`"
        )
    check_gallery(probes.labels, gallery.labels, of_probes.names, of_gallery.names)
    return ProbesAndGallery(probes, gallery, n_probes=len(probes.labels))
