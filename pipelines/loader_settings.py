"""Settings of the loaders. Apart from them, so that reading a recipe needs no DALI."""

from typing import Annotated, Literal

from pydantic import Field

from semipose.configs.settings import settings

Cache = Literal["none", "host", "device"]
"""Where decoded crops are kept; without a GPU, device means the host."""


@settings
class LoaderSettings:
    """How the pipelines run. Batches depend only on `shuffle_buffer` and on the samples that are lost."""

    threads: Annotated[int, Field(ge=1, le=512)] = 2
    """CPU threads per stream; without a GPU, as many again warp views."""
    prefetch: Annotated[int, Field(ge=1, le=128)] = 2
    """Batches that each stream prepares in advance."""
    hw_decoder_load: Annotated[float, Field(ge=0, le=1)] = 0.65
    """Share of each batch that the JPEG engines of a data-centre GPU decode; its cores decode the rest."""
    shuffle_buffer: Annotated[int, Field(ge=1)] = 2048
    """Size of the shuffle buffer of each training stream, in encoded samples; a larger one shuffles better
    and takes more memory."""
    bad_samples: Annotated[int, Field(ge=0)] = 0
    """Samples that each training stream over http or a pipe may lose, with a warning, before the run stops.
    With 1 or more, each sample is first decoded once more to check it."""


DEFAULTS = LoaderSettings()
