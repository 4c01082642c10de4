"""``fairseq-ecg extract``: embeddings of a label set or a whole store, and a picture of them."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from fairseq_ecg.cli._building import add_overwrite, add_progress, progress_of
from fairseq_ecg.embedding_files import (
    ABOUT_FILE,
    INDEX_FILE,
    PARTS_FOLDER,
    VALUES_FILE,
    Embeddings,
    read_embeddings,
)
from fairseq_ecg.extraction import FORMATS, PER, classes_of_records, extract
from fairseq_ecg.plots.embeddings import (
    LEAST_OF_UMAP,
    check_umap,
    has_umap,
    plot_embeddings,
    principal_components,
    umap_projection,
)

PROJECTIONS = ("auto", "pca", "umap")
MOST_POINTS = 5000


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add the verb to the command."""
    parser = subparsers.add_parser(
        "extract",
        help="write the embeddings of recordings",
        epilog="A run that was stopped or killed goes on when the same command is given again.",
    )
    parser.add_argument("checkpoint", help="any checkpoint with an encoder, or an exported folder")
    parser.add_argument("data", help="folder of a label set, of manifests, or a store")
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        help=f"folder for {ABOUT_FILE} and {PARTS_FOLDER}/, or {VALUES_FILE} and {INDEX_FILE}",
    )
    parser.add_argument(
        "--split", nargs="+", default=(), help="which manifests (default: all of them)"
    )
    parser.add_argument(
        "--per",
        default="record",
        choices=PER,
        help="one vector per recording, the mean over its windows (default), or per frame",
    )
    parser.add_argument("--format", default="parquet", choices=FORMATS, help="default: %(default)s")
    parser.add_argument("--leads", help="silence all leads but these, such as 3-lead")
    parser.add_argument(
        "--random-init",
        type=int,
        metavar="SEED",
        help="take random weights in place of the checkpoint's, for a baseline",
    )
    parser.add_argument("--batch-size", type=int, default=64, help="windows per forward pass")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, ...")
    parser.add_argument(
        "--picture", type=Path, help="picture of the vectors in a plane, .png, .pdf or .svg"
    )
    parser.add_argument(
        "--projection",
        default="auto",
        choices=PROJECTIONS,
        help="pca, umap (needs umap-learn), or umap if that is installed, else pca (default)",
    )
    parser.add_argument(
        "--labels", help="label set whose labels colour the picture (default: DATA's, if any)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the picture (default: 0)")
    add_overwrite(parser)
    add_progress(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Extract, draw and print."""
    if args.picture is not None and args.projection == "umap":
        check_umap()
    about = extract(
        args.checkpoint,
        args.data,
        args.out,
        args.split,
        per=args.per,
        form=args.format,
        batch_size=args.batch_size,
        device=args.device,
        leads=args.leads,
        random_init=args.random_init,
        overwrite=args.overwrite,
        progress=progress_of(args),
    )
    records = ", ".join(f"{of['records']} of {split}" for split, of in about["data"].items())
    print(f"{args.out}: {about['rows']} vectors of width {about['width']}, recordings: {records}")
    if args.picture is not None:
        labels = classes_of_records(args.data if args.labels is None else args.labels)
        if args.labels is not None and not labels:
            raise ValueError(f"--labels {args.labels} is no label set; it has no labels.txt")
        print(picture(read_embeddings(args.out), labels, args.picture, args.projection, args.seed))
    return 0


def picture(
    found: Embeddings,
    labels: Mapping[str, Sequence[str]],
    path: Path,
    projection: str = "auto",
    seed: int = 0,
) -> Path:
    """Draw embeddings in a plane.

    Args:
        found: What is drawn; of more than 5000 vectors as many are drawn at random.
        labels: Classes by record; colours.
        path: The picture, .png, .pdf or .svg.
        projection: One of ``PROJECTIONS``.
        seed: Of what is drawn at random.

    Returns:
        The path.
    """
    n_rows = len(found.table)
    rows = np.arange(n_rows)
    if n_rows > MOST_POINTS:
        rows = np.sort(np.random.default_rng(seed).permutation(n_rows)[:MOST_POINTS])
    values = np.asarray(found.values[rows], dtype=np.float64)
    enough = has_umap() and len(values) >= LEAST_OF_UMAP
    if projection == "umap" or (projection == "auto" and enough):
        points, axes = umap_projection(values, seed), ("UMAP 1", "UMAP 2")
    else:
        points, shares = principal_components(values)
        axes = tuple(f"component {k + 1} ({share:.0%})" for k, share in enumerate(shares))
    of = [tuple(labels.get(record, ())) for record in found.table["record"].iloc[rows]]
    about = found.about
    drawn = f"{len(rows)} of {n_rows}" if len(rows) < n_rows else f"{n_rows}"
    unit = "frames" if about.get("per") == "frame" else "recordings"
    random = ", random weights" if about.get("random_init") is not None else ""
    title = f"{about.get('model', 'encoder')}{random}: {drawn} {unit}"
    return plot_embeddings(points, of, path, axes, title)
