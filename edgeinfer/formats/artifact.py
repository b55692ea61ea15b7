"""The only way to an engine: a file that has not passed `check_artifact` is not loaded."""

from __future__ import annotations

from pathlib import Path

from edgeinfer.errors import ArtifactError
from edgeinfer.formats.gguf_checks import check_model
from edgeinfer.formats.gguf_header import GgufHeader, read_header
from edgeinfer.formats.gguf_split import join_parts, n_parts
from edgeinfer.formats.paths import refuse_pickle
from edgeinfer.formats.safetensors_header import SafetensorsFolder, check_folder

__all__ = ["check_artifact"]


def check_artifact(path: Path) -> GgufHeader | SafetensorsFolder:
    """The checked header of a `.gguf` file or of a folder with `config.json` and `.safetensors`.

    For one part of a split file it is the header of all parts.
    Cheap: headers only, no weights. Raises ArtifactError for anything else, including pickles, which are recognized by
    name and content.
    """
    if path.is_dir():
        return check_folder(path)
    if not path.exists():
        raise ArtifactError(f"{path} does not exist", hint="check the path, or pull the model again")
    if not path.is_file():
        raise ArtifactError(f"{path} is not a regular file")
    try:
        refuse_pickle(path)
    except OSError as error:
        raise ArtifactError(
            f"{path} cannot be read: {error.strerror or error}", hint="check that you may read it"
        ) from error
    if path.suffix == ".safetensors":
        raise ArtifactError(f"{path} is one weight file", hint="name its folder, which holds config.json too")
    header = read_header(path)
    if n_parts(header) > 1:
        header = join_parts(path, header)
    check_model(header, str(path))
    return header
