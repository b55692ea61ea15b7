"""`edgeinfer show`: what a model is, from the catalog and from its file."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from edgeinfer.cli.options import add_json_option, model_name
from edgeinfer.cli.output import show, show_json, size
from edgeinfer.text import shown

if TYPE_CHECKING:
    from edgeinfer.catalog import Artifact, ModelEntry

HELP = "show a model's base model, tier, shape, license, digest and template"
USAGE = "show MODEL [--tier TIER] [--verify] [--json]"
EXAMPLES = """\
  edgeinfer show demo
  edgeinfer show ./model.gguf --verify   also check the digest of the file
  edgeinfer show qwen3-4b --json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model", type=model_name, metavar="MODEL", help="a catalog name, `org/repo`, `org/repo:TIER`, or a path"
    )
    parser.add_argument("--tier", default="", help="the quantization, such as Q4_K_M")
    parser.add_argument("--verify", action="store_true", help="read the whole file and check its digest")
    parser.add_argument("--offline", action="store_true", help="never use the network")
    add_json_option(parser)


def run(args: argparse.Namespace) -> int:
    from edgeinfer.catalog import load_catalog
    from edgeinfer.errors import ModelNotFoundError
    from edgeinfer.plan import Request
    from edgeinfer.runner.choose import resolve

    catalog, request = resolve(load_catalog(), Request(model=args.model, tier=args.tier), offline=args.offline)
    entry = catalog.find(request.model)
    assert entry is not None  # resolve gives a name of the catalog
    artifacts = [artifact for artifact in entry.artifacts if request.tier.upper() in ("", artifact.tier.upper())]
    if not artifacts:
        tiers = ", ".join(dict.fromkeys(artifact.tier for artifact in entry.artifacts))
        raise ModelNotFoundError(f"{entry.name} has no tier {request.tier}", hint=f"it has {tiers}")
    facts = describe(entry, unique(artifacts), verify_files=args.verify)
    if args.json:
        show_json(facts)
    else:
        show("\n".join(lines(facts)))
    return 0


def unique(artifacts: list[Artifact]) -> list[list[Artifact]]:
    """The artifacts of each file: one that several backends load is listed once."""
    files: dict[tuple[str, str, str], list[Artifact]] = {}
    for artifact in artifacts:
        files.setdefault((artifact.source, artifact.file, artifact.tier), []).append(artifact)
    return list(files.values())


def describe(entry: ModelEntry, files: list[list[Artifact]], *, verify_files: bool) -> dict[str, object]:
    shape = entry.shape
    return {
        "name": entry.name,
        "title": entry.title,
        "license": entry.license,
        "gated": entry.gated,
        "rank": entry.rank,
        "architecture": shape.architecture,
        "parameters": shape.n_params,
        "active_parameters": shape.n_active_params,
        "layers": shape.n_layers,
        "hidden": shape.hidden,
        "heads": shape.n_heads,
        "kv_heads": max((group.n_kv_heads for group in shape.kv), default=0),
        "vocabulary": shape.n_vocab,
        "positions": shape.limit,
        "exit_layer": entry.exit_layer,
        "draft": asdict(entry.draft) if entry.draft else None,
        "no_draft": entry.no_draft or None,
        "thinking": list(entry.thinking) if entry.thinking else None,
        "notes": entry.notes,
        "files": [describe_file(same, verify_it=verify_files) for same in files],
    }


def describe_file(same: list[Artifact], *, verify_it: bool) -> dict[str, object]:
    """What the catalog says, and the file if it is on this machine."""
    from edgeinfer.runner.opening import local_path

    artifact = same[0]
    path = local_path(artifact)
    facts: dict[str, object] = {
        "tier": artifact.tier,
        "backends": [one.backend for one in same],
        "n_bytes": artifact.n_bytes,
        "repo": artifact.repo,
        "package": artifact.package,
        "file": artifact.file,
        "revision": artifact.revision,
        "sha256": artifact.sha256 or None,
        "path": str(path) if path else None,
    }
    return facts | (said_by_file(path, artifact, verify_it=verify_it) if path else {})


def said_by_file(path: Path, artifact: Artifact, *, verify_it: bool) -> dict[str, object]:
    from edgeinfer.formats import GgufHeader, check_artifact, facts_from_gguf
    from edgeinfer.formats.bundle import is_bundle
    from edgeinfer.hub import known_digest, verify

    if is_bundle(path):
        return said_by_bundle(path)
    header = check_artifact(path)
    said: dict[str, object] = {}
    if isinstance(header, GgufHeader):
        facts = facts_from_gguf(header)
        template = header.metadata.get("tokenizer.chat_template")
        said = {
            "base_model": facts.base_model or None,
            "tokenizer": facts.tokenizer,
            "template": template if isinstance(template, str) else None,
            "n_bytes": facts.n_bytes,
        }
    else:
        from edgeinfer.formats.hf_folder import chat_template

        said = {"template": chat_template(path)}
    if verify_it and path.is_file():
        known = known_digest(path, artifact.sha256)
        said |= {"sha256": verify(path, artifact.sha256), "verified": bool(known)}
        for part in header.parts[1:] if isinstance(header, GgufHeader) else ():
            said["verified"] = bool(known_digest(part)) and said["verified"]
            verify(part)
    return said


def said_by_bundle(path: Path) -> dict[str, object]:
    from edgeinfer.formats.bundle import check_bundle
    from edgeinfer.formats.hf_folder import chat_template

    manifest = check_bundle(path).manifest
    return {"base_model": manifest.base_model or None, "template": chat_template(path)}


def lines(facts: dict[str, object]) -> list[str]:
    text = [f"{facts['title']} ({facts['name']})"]
    shape = (
        f"{facts['architecture']}, {count(facts['parameters'])} parameters, {facts['layers']} layers of "
        f"{facts['hidden']}, {facts['heads']} heads ({facts['kv_heads']} K/V), vocabulary {facts['vocabulary']}, "
        f"{facts['positions']} positions"
    )
    rows = {
        "license": f"{facts['license']}{', gated' if facts['gated'] else ''}",
        "shape": shape,
        "early exit": f"after layer {facts['exit_layer']}" if facts["exit_layer"] else "none",
        "draft": draft_line(facts["draft"], facts["no_draft"]),
        "notes": facts["notes"],
    }
    text += [f"  {name:<11} {value}" for name, value in rows.items() if value]
    files = facts["files"]
    assert isinstance(files, list)
    for file in files:
        text += ["", *file_lines(file)]
    return [shown(line) for line in text]


def file_lines(file: dict[str, object]) -> list[str]:
    assert isinstance(file["n_bytes"], int)
    rows = {
        "file": "/".join(str(part) for part in (file["repo"] or file["package"], file["file"]) if part),
        "base model": file.get("base_model"),
        "digest": digest_line(file),
        "here": file["path"] or "no",
        "tokenizer": file.get("tokenizer"),
        "template": None if not file["path"] else shortened(file.get("template")),
    }
    backends = file["backends"]
    assert isinstance(backends, list)
    head = f"  {file['tier']} for {', '.join(backends)}, {size(file['n_bytes'])}"
    return [head, *(f"    {name:<11} {value}" for name, value in rows.items() if value)]


def draft_line(draft: object, no_draft: object) -> str:
    if not isinstance(draft, dict):
        return f"not used: {no_draft}" if no_draft else ""
    right = ", ".join(f"{share:.2f}" for share in draft["agreement"])
    agrees = f", right by depth {right}" if right else ""
    return f"{draft['kind']}, taught to {draft['base_model']}{agrees}: {draft['file'] or 'a part of the bundle'}"


def digest_line(file: dict[str, object]) -> str:
    if "verified" not in file:
        return str(file["sha256"] or "not published")
    how = "verified" if file["verified"] else "read whole; no digest is published to compare it with"
    return f"{file['sha256']}, {how}"


def shortened(template: object) -> str:
    if not isinstance(template, str):
        return "none: ChatML is used"
    text = " ".join(template.split())
    return text if len(text) <= 160 else f"{text[:160]}... ({len(template):,} characters; --json prints all)"


def count(value: object) -> str:
    assert isinstance(value, int)
    return f"{value / 1e9:.2f}B" if value >= 1_000_000_000 else f"{value / 1e6:.1f}M"
