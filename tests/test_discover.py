"""Adding a file is enough to register what it holds."""

import sys

from fairseq_ecg._discover import import_public_modules


def test_public_modules_are_imported_and_private_ones_are_not(tmp_path, monkeypatch):
    package = tmp_path / "toy_room"
    package.mkdir()
    (package / "__init__.py").write_text("")
    for name in ("alpha", "beta", "_private"):
        (package / f"{name}.py").write_text("loaded = True\n")
    monkeypatch.syspath_prepend(tmp_path)
    import toy_room

    assert import_public_modules("toy_room", toy_room.__path__) == [
        "toy_room.alpha",
        "toy_room.beta",
    ]
    assert sys.modules["toy_room.alpha"].loaded
    assert "toy_room._private" not in sys.modules
