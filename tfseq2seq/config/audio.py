"""The tables of recorded speech: how it becomes features, and how training disturbs them."""

from typing import Annotated, Literal

import pydantic
from pydantic import Field

from tfseq2seq.config.table import NonNegative, PositiveInt, Table

Seconds = Annotated[float, Field(gt=0)]


class Audio(Table):
    """How recordings become features: log-mel energies of short windows."""

    sample_rate: PositiveInt = 16_000  # Hz; recordings of another rate are resampled to it
    window: Seconds = 0.025  # seconds that a frame sees, weighted by a Hann window
    hop: Seconds = 0.010  # seconds from the middle of a frame to that of the next
    mel_bins: PositiveInt = 80
    # "slaney": linear below 1 kHz, triangles of equal area (Slaney, 1998; librosa's default). "htk": 2595 log10(1 + f /
    # 700), triangles of height 1 (Young et al., 2006; torchaudio's default).
    mel_scale: Literal["slaney", "htk"] = "slaney"
    lowest_frequency: NonNegative = 0.0  # Hz, where the first triangle begins
    highest_frequency: Annotated[float, Field(gt=0)] | None = None  # Hz, end of the last; default: half the rate
    # Of each feature to mean 0 and variance 1: over the frames of a recording, or by what all of train has.
    # "peak": tenfold logarithms, those below the recording's largest by more than 8 raised to that, plus 4, by 4
    # (Radford et al., 2022, arXiv:2212.04356, in its code).
    normalization: Literal["utterance", "global", "peak", "none"] = "utterance"
    # Every recording is cut or filled with silence to so many seconds, all of which the encoder reads (as Whisper's).
    chunk: Seconds | None = None
    reflect: bool = False  # what a window sees beyond both ends: the recording in reverse, or zeros
    fft_size: PositiveInt | None = None  # samples of the Fourier transform; default: the window's, to a power of 2
    # Speeds that training plays a recording at, one drawn each time (Ko et al., 2015); pitch changes along.
    speeds: list[Annotated[float, Field(ge=0.5, le=2)]] = Field(default=[1.0], min_length=1)
    min_duration: NonNegative = 0.0  # seconds; a train recording that is shorter is left out
    max_duration: Seconds | None = None  # seconds; or longer

    @property
    def chunk_frames(self) -> int | None:
        """Frames of every recording, where there is a chunk."""
        return None if self.chunk is None else round(self.chunk * self.sample_rate) // round(
            self.hop * self.sample_rate)

    @property
    def band(self) -> tuple[float, float]:
        """Edges of the band in Hz."""
        return self.lowest_frequency, self.highest_frequency or self.sample_rate / 2

    @pydantic.model_validator(mode="after")
    def _consistent(self):
        lowest, highest = self.band
        # Whisper's triangles may end beyond half of the rate, where they hold nothing.
        most = max(self.sample_rate / 2, highest if self.normalization == "peak" else 0)
        if not lowest < highest <= most:
            raise ValueError(
                "lowest_frequency must be below highest_frequency, and that at most half of sample_rate. Received: "
                f"lowest_frequency={lowest}, highest_frequency={highest}, sample_rate={self.sample_rate}")
        if min(self.window, self.hop) * self.sample_rate < 1:
            raise ValueError(
                "window and hop must hold at least one sample. Received: "
                f"window={self.window}, hop={self.hop}, sample_rate={self.sample_rate}")
        if any(round(speed, 2) != speed for speed in self.speeds) or len(set(self.speeds)) < len(self.speeds):
            raise ValueError(f"speeds must be different numbers of hundredths, as 0.9. Received: {self.speeds}")
        if self.fft_size is not None and self.fft_size < round(self.window * self.sample_rate):
            raise ValueError(
                "fft_size must hold the window's samples. Received: "
                f"fft_size={self.fft_size}, window={self.window}, sample_rate={self.sample_rate}")
        if self.reflect and self.chunk is None:
            raise ValueError("reflect needs recordings of one length: set chunk. Received: chunk = none")
        if self.max_duration is not None and self.max_duration <= self.min_duration:
            raise ValueError(
                "max_duration must be above min_duration. Received: "
                f"min_duration={self.min_duration}, max_duration={self.max_duration}")
        return self


class SpecAugment(Table):
    """Which parts of the features training hides (Park et al., 2019, arXiv:1904.08779); their time warp is left out."""

    frequency_masks: Annotated[int, Field(ge=0)] = 2
    frequency_width: PositiveInt = 27  # F: features that a mask hides, at most
    time_masks: Annotated[int, Field(ge=0)] = 2
    time_width: PositiveInt = 100  # T: frames that a mask hides, at most
    time_share: Annotated[float, Field(gt=0, le=1)] = 0.2  # p: and at most this share of a recording's frames
