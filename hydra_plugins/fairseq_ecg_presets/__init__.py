"""Lets hydra find the presets of fairseq_ecg by name, without ``--config-dir``.

hydra imports every module of the namespace package ``hydra_plugins``; this one adds our preset
folders to the end of the search path, and only in programs that use fairseq. It must not import
``fairseq_ecg``: fairseq wants to import the user directory itself, later.
"""

import sys

from hydra.core.config_search_path import ConfigSearchPath
from hydra.plugins.search_path_plugin import SearchPathPlugin


class FairseqEcgPresets(SearchPathPlugin):
    """Appends ``examples/<method>/config/*`` to hydra's search path."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Add one ``file://`` entry for each folder that holds presets."""
        if "fairseq" not in sys.modules:
            return
        from fairseq_ecg_launch import preset_folders

        for folder in preset_folders():
            search_path.append("fairseq_ecg", f"file://{folder}")
