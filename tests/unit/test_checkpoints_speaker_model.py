"""A speaker model is fetched, verified and refused as checkpoints are."""

import json
import shutil
import tarfile
from pathlib import Path

import pytest

from babelrack.checkpoints import CheckpointError
from babelrack.checkpoints.digests import sha256_file
from babelrack.checkpoints.speaker_model import fetch_speaker_model, parse_speaker_model_url

MODEL = Path(__file__).parents[2] / ".cache" / "speakers" / "ge2e-lstm"


@pytest.fixture
def copied(tmp_path):
    return shutil.copytree(MODEL, tmp_path / "model")


def test_a_folder_is_used_where_it_is_and_an_archive_lands_in_the_cache(copied, tmp_path):
    digest = sha256_file(copied / "model.safetensors")
    assert fetch_speaker_model(f"{copied.as_uri()}#sha256={digest}", tmp_path / "cache") == copied
    with tarfile.open(tmp_path / "model.tar", "w") as archive:
        for name in ("config.json", "model.safetensors"):
            archive.add(copied / name, arcname=name)
    landed = fetch_speaker_model((tmp_path / "model.tar").as_uri(), tmp_path / "cache")
    assert landed.is_relative_to(tmp_path / "cache")
    assert sha256_file(landed / "model.safetensors") == digest


def test_what_is_no_speaker_model_is_refused_in_a_sentence(copied, tmp_path, checkpoint):
    with pytest.raises(CheckpointError, match=r"sha256 is .* was asked for"):
        fetch_speaker_model(f"{copied.as_uri()}#sha256={'0' * 64}", tmp_path / "cache")
    with pytest.raises(CheckpointError, match="model_type is 'whisper'; a speaker model is 'ge2e-lstm'"):
        fetch_speaker_model(checkpoint.as_uri(), tmp_path / "cache")
    config = json.loads((copied / "config.json").read_text())
    (copied / "config.json").write_text(json.dumps(config | {"layers": 4}))
    with pytest.raises(CheckpointError, match=r"lack lstm\.weight_ih_l3"):
        fetch_speaker_model(copied.as_uri(), tmp_path / "cache")
    (copied / "model.safetensors").rename(copied / "pretrained.pt")
    (copied / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"pretrained\.pt is a pickle"):
        fetch_speaker_model(copied.as_uri(), tmp_path / "cache")
    with pytest.raises(CheckpointError, match="SPEAKER_MODEL_URL has none of the schemes"):
        parse_speaker_model_url("gopher:x")
