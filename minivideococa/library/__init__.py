"""Libraries: the latents of a collection of videos on disk, searched exactly.

store     the format: shards and library.json, read and written
build     from videos to a library: `index`
find      from a text or a video to the clips that fit: `search`
vectors   to and from NumPy, FAISS and Parquet files
"""

from .build import index
from .find import Hit, search, search_latents
from .store import Clip, read_library
from .vectors import export_vectors, import_vectors

__all__ = [
    "Clip",
    "Hit",
    "export_vectors",
    "import_vectors",
    "index",
    "read_library",
    "search",
    "search_latents",
]
