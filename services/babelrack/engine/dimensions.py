"""The sizes of a Whisper-family checkpoint."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from babelrack.engine.errors import EngineError

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class Dimensions:
    """Sizes as `config.json` of the Hugging Face Whisper layout names them."""

    mel_bands: int
    vocabulary: int
    width: int
    audio_positions: int
    text_positions: int
    encoder_layers: int
    encoder_heads: int
    decoder_layers: int
    decoder_heads: int

    @classmethod
    def read(cls, directory: Path) -> Self:
        """Read `config.json` of a checkpoint.

        Raises:
            EngineError: when it isn't a Whisper checkpoint's.
        """
        path = directory / "config.json"
        try:
            config = json.loads(path.read_text())
            if config["model_type"] != "whisper":
                raise EngineError(
                    f"{path} says model_type {config['model_type']!r}; only whisper checkpoints are served"
                )
            return cls(
                mel_bands=int(config["num_mel_bins"]),
                vocabulary=int(config["vocab_size"]),
                width=int(config["d_model"]),
                audio_positions=int(config["max_source_positions"]),
                text_positions=int(config["max_target_positions"]),
                encoder_layers=int(config["encoder_layers"]),
                encoder_heads=int(config["encoder_attention_heads"]),
                decoder_layers=int(config["decoder_layers"]),
                decoder_heads=int(config["decoder_attention_heads"]),
            )
        except OSError as error:
            raise EngineError(f"{path} can't be read: {error.strerror}") from error
        except (KeyError, TypeError, ValueError) as error:
            raise EngineError(f"{path} is not a Whisper configuration: {error}") from error
