"""Networks on the hub and back, through its client's own signatures, without a network."""

import shutil
from pathlib import Path
from unittest.mock import create_autospec

import pytest
import torch

import fairseq_ecg
from fairseq_ecg import exported, hub
from fairseq_ecg.cli.main import main
from fairseq_ecg.export import export_checkpoint
from fairseq_ecg.hub import HubError, pull_from_hub, push_to_hub
from tests.exports import write_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    dest = tmp_path_factory.mktemp("export")
    export_checkpoint(write_model(dest / "a.pt", "se_wrn"), dest / "net", ["safetensors"])
    return dest / "net"


@pytest.fixture
def api(tmp_path, monkeypatch):
    """The client of the hub, whose repositories are folders; calls it would refuse fail."""
    huggingface_hub = pytest.importorskip(
        "huggingface_hub", reason="huggingface_hub is not installed (extra: hub)"
    )
    client = create_autospec(huggingface_hub.HfApi, instance=True)
    place = tmp_path / "remote"

    def create_repo(repo_id, *, private=None, exist_ok=False, **other):
        (place / repo_id).mkdir(parents=True, exist_ok=exist_ok)

    def upload_folder(*, repo_id, folder_path, allow_patterns, **other):
        for name in allow_patterns:
            if (Path(folder_path) / name).is_file():
                shutil.copy(Path(folder_path) / name, place / repo_id)

    def snapshot_download(repo_id, *, local_dir, allow_patterns, **other):
        for path in (place / repo_id).iterdir():
            if path.name in allow_patterns:
                shutil.copy(path, local_dir)
        (Path(local_dir) / ".cache" / "huggingface").mkdir(parents=True)

    client.create_repo.side_effect = create_repo
    client.upload_folder.side_effect = upload_folder
    client.snapshot_download.side_effect = snapshot_download
    client.place = place
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: client)
    return client


def same_network(one, other):
    source = torch.randn(2, 12, 128)
    models = [fairseq_ecg.load_pretrained(path)[0] for path in (one, other)]
    return torch.equal(models[0].embed(source), models[1].embed(source))


def test_a_network_goes_to_the_hub_and_comes_back(folder, api, tmp_path):
    (folder / "notes.txt").write_text("mine")
    assert push_to_hub(folder, "me/net") == "https://huggingface.co/me/net"
    assert api.create_repo.call_args.kwargs == {"private": True, "exist_ok": True}
    remote = api.place / "me" / "net"
    assert not (remote / "notes.txt").exists()
    (remote / "evil.pkl").write_bytes(b"\x80")
    dest = pull_from_hub("me/net", tmp_path / "back", revision="v1")
    assert api.snapshot_download.call_args.kwargs["revision"] == "v1"
    names = {path.name for path in dest.iterdir()}
    assert names == {path.name for path in folder.iterdir()} - {"notes.txt"}
    assert same_network(folder, dest)


def test_a_new_repository_is_public_only_if_asked_for(folder, api):
    push_to_hub(folder, "net", private=False)
    assert api.create_repo.call_args.kwargs["private"] is False


def test_a_folder_stands_in_place_of_the_hub(folder, tmp_path):
    place = push_to_hub(folder, "me/net", hub_dir=tmp_path / "hub")
    assert place == str(tmp_path / "hub" / "me" / "net")
    (Path(place) / "model.onnx").write_text("of an earlier export")
    push_to_hub(folder, "me/net", hub_dir=tmp_path / "hub")
    assert not (Path(place) / "model.onnx").exists()
    assert same_network(
        folder, pull_from_hub("me/net", tmp_path / "back", hub_dir=tmp_path / "hub")
    )
    with pytest.raises(HubError, match="has no repository me/other"):
        pull_from_hub("me/other", tmp_path / "other", hub_dir=tmp_path / "hub")
    with pytest.raises(HubError, match="no revisions"):
        pull_from_hub("me/net", tmp_path / "other", revision="v1", hub_dir=tmp_path / "hub")
    assert not (tmp_path / "other").exists()


def test_the_commands_push_and_pull(folder, tmp_path, capsys):
    checkpoint, place = str(folder.parent / "a.pt"), ["--hub-dir", str(tmp_path / "hub")]
    export = ["export", checkpoint, "--dest", str(tmp_path / "out"), "--format", "safetensors"]
    assert main([*export, *place]) == 2
    assert "give that too" in capsys.readouterr().err
    assert main([*export, *place, "--push-to-hub", "me/net"]) == 0
    assert f"pushed to {tmp_path}/hub/me/net" in capsys.readouterr().out
    assert main(["pull", "me/net", "--dest", str(tmp_path / "back"), *place]) == 0
    assert same_network(folder, tmp_path / "back")
    assert main(["pull", "me/net", "--dest", str(tmp_path / "back"), *place]) == 2
    assert "back exists" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["../up", "a/b/c", "", "a/..", "/etc/net", "me/", "me/ne t", "-x"])
def test_names_that_are_no_repository_are_refused(folder, name, tmp_path):
    with pytest.raises(HubError, match="is no name of a repository; give OWNER/NAME"):
        push_to_hub(folder, name, hub_dir=tmp_path)
    with pytest.raises(HubError, match="is no name of a repository"):
        pull_from_hub(name, tmp_path / "out", hub_dir=tmp_path)


def test_a_hub_that_refuses_is_one_line_with_the_way_out(folder, api, tmp_path):
    api.upload_folder.side_effect = RuntimeError("401 Unauthorized\nmore")
    with pytest.raises(
        HubError, match=r"\(401 Unauthorized\)\. .*net is complete.*hf upload me/net"
    ):
        push_to_hub(folder, "me/net")
    api.snapshot_download.side_effect = RuntimeError("404")
    with pytest.raises(HubError, match=r"me/net cannot be fetched \(404\)"):
        pull_from_hub("me/net", tmp_path / "back")
    assert not (tmp_path / "back").exists()


def test_what_is_no_network_of_ours_is_neither_pushed_nor_kept(folder, api, tmp_path):
    with pytest.raises(exported.ExportedError, match="without config.json"):
        push_to_hub(tmp_path, "me/net")
    (api.place / "me" / "bert").mkdir(parents=True)
    (api.place / "me" / "bert" / "README.md").write_text("words")
    with pytest.raises(HubError, match=r"holds no network of fairseq_ecg: it has no config.json"):
        pull_from_hub("me/bert", tmp_path / "back")
    (api.place / "me" / "bert" / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(exported.ExportedError, match="library_name is None"):
        pull_from_hub("me/bert", tmp_path / "back")
    assert not (tmp_path / "back").exists()


def test_without_the_client_the_extra_is_named(folder, monkeypatch):
    monkeypatch.setattr(hub, "find_spec", lambda name: None)
    with pytest.raises(HubError, match=r"pip install 'fairseq-ecg\[hub\]', or give a folder"):
        push_to_hub(folder, "me/net")
