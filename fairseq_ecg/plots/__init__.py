"""Pictures, with Matplotlib and without a display: ECGs on paper, curves of a run."""
