"""The catalog: the models of `models.toml`, overridden by those in the user's own file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from edgeinfer.catalog.entry import ModelEntry, Pick, Tier
from edgeinfer.catalog.read import read_models, read_picks, read_tiers
from edgeinfer.formats.tables import read_toml
from edgeinfer.paths import config_folder

__all__ = ["Catalog", "builtin_file", "load_catalog", "user_models_file"]


@dataclass(frozen=True)
class Catalog:
    """Models by rising rank; `picks` is the table by memory size; `tiers` the known quantizations."""

    models: tuple[ModelEntry, ...]
    picks: tuple[Pick, ...]
    tiers: Mapping[str, Tier]
    missing: Mapping[str, str]  # names that users ask for but that were never released -> what exists

    def find(self, name: str) -> ModelEntry | None:
        """The entry of this catalog name, in any case; None when there is none."""
        wanted = name.strip().lower()
        return next((model for model in self.models if model.name.lower() == wanted), None)

    def near(self, name: str) -> list[str]:
        """Up to three catalog names that look like `name`, the nearest first."""
        import difflib  # imported late: `plan` does not need it

        wanted = _squeeze(name)
        names = {_squeeze(model.name): model.name for model in self.models}
        names |= {_squeeze(model.title): model.name for model in self.models}
        found = [names[near] for near in difflib.get_close_matches(wanted, names, n=6, cutoff=0.6)]
        found += [
            model.name
            for key, model_name in names.items()
            if wanted and wanted in key
            for model in self.models
            if model.name == model_name
        ]
        return list(dict.fromkeys(found))[:3]

    def explain_missing(self, name: str) -> str:
        """Why a well-known name is not in the catalog ("Llama 3.2 has 1B and 3B ..."), or ""."""
        wanted = _squeeze(name)
        return next((text for known, text in self.missing.items() if _squeeze(known) in wanted), "")

    def with_model(self, entry: ModelEntry) -> Catalog:
        """This catalog with `entry` added; it replaces one of the same name."""
        others = [model for model in self.models if model.name != entry.name]
        return replace(self, models=tuple(sorted([*others, entry], key=lambda model: (model.rank, model.name))))


def _squeeze(name: str) -> str:
    return re.sub(r"[^a-z0-9.]", "", name.lower())


def builtin_file() -> Path:
    """`models.toml`: inside an installed package, or at the top of a checkout."""
    package = Path(__file__).parent.parent
    installed = package / "models.toml"
    return installed if installed.exists() else package.parent / "models.toml"


def user_models_file() -> Path | None:
    """Where the user's own entries are, in the configuration folder; None without one."""
    folder = config_folder()
    return folder / "models.toml" if folder else None


def load_catalog(user_file: Path | None = None) -> Catalog:
    """The built-in models, overridden by those of `user_file` if it exists. None: the user's own file. Raises
    UsageError where a file is wrong.
    """
    top = read_toml(builtin_file())
    tiers = read_tiers(top)
    catalog = Catalog(
        models=tuple(sorted(read_models(top, tiers), key=lambda model: (model.rank, model.name))),
        picks=read_picks(top),
        tiers=tiers,
        missing=top.table("missing").all_texts(),
    )
    top.done()
    mine = user_file or user_models_file()
    if mine and mine.exists():
        own = read_toml(mine)
        for entry in read_models(own, tiers):
            catalog = catalog.with_model(entry)
        own.done()
    return catalog
