"""`models.toml`: models, their shapes and their files."""

from edgeinfer.catalog.catalog import Catalog, builtin_file, load_catalog, user_models_file
from edgeinfer.catalog.entry import Artifact, LayerKv, ModelEntry, ModelShape, Pick, Tier
from edgeinfer.catalog.user import append_user_entry

__all__ = [
    "Artifact",
    "Catalog",
    "LayerKv",
    "ModelEntry",
    "ModelShape",
    "Pick",
    "Tier",
    "append_user_entry",
    "builtin_file",
    "load_catalog",
    "user_models_file",
]
