"""`onprem_pack`: a pack as it runs at a site, read and validated at plan time."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from babelrack.packs.faults import PackError
from babelrack.packs.pack import load_pack
from babelrack.packs.site import load_deployment
from babelrack.provider.framework import Attribute, DataSource, List, Number, Object, Schema, String

if TYPE_CHECKING:
    from babelrack.packs.pack import Pack
    from babelrack.provider.framework import State

NEEDS: Final = Object({name: Number() for name in ("gpus", "gpu_memory_gib", "ram_gib", "disk_gib")})
PORTS: Final = Object({name: Number() for name in ("api", "model", "metrics")})
_CHECKPOINT: Final = Object({"name": String(), "role": String(), "languages": List(String())})


class PackData(DataSource):
    """Terraform's `data "onprem_pack"`."""

    def __init__(self, provider: Any) -> None:
        """Needs nothing of the provider: a pack is a file."""

    @classmethod
    def get_name(cls) -> str:
        return "pack"

    @classmethod
    def get_schema(cls) -> Any:
        return Schema(
            attributes=[
                Attribute(
                    "name",
                    String(),
                    "The pack's name. With site_file it says which of the site's packs.",
                    optional=True,
                    computed=True,
                ),
                Attribute(
                    "site_file", String(), "A site.yaml: what it changes about the pack is merged in.", optional=True
                ),
                Attribute(
                    "file",
                    String(),
                    "The pack's file; instead of name and site_file, for a pack without a site.",
                    optional=True,
                    computed=True,
                ),
                Attribute("aggregator", String(), "The code for a request that names no language.", computed=True),
                Attribute("languages", List(String()), "Every language that the pack serves.", computed=True),
                Attribute("checkpoints", List(_CHECKPOINT), "The pack's checkpoints.", computed=True),
                Attribute("concurrency", Number(), "Requests that each checkpoint decodes at a time.", computed=True),
                Attribute("replicas", Number(), "How many hosts run the pack.", computed=True),
                Attribute("needs", NEEDS, "What each of these hosts must have.", computed=True),
                Attribute("ports", PORTS, "The ports of a replica.", computed=True),
                Attribute(
                    "shared_hosts",
                    List(String()),
                    "The site's shared host and gateway, best left to themselves.",
                    computed=True,
                ),
            ],
            description="A pack's file, with what a site changes about it; validated when Terraform plans.",
        )

    def validate(self, diags: Any, type_name: str, config: State) -> None:  # noqa: ARG002, RUF100
        alone, named = config.get("file"), config.get("name")
        if alone is not None and (named is not None or config.get("site_file") is not None):
            diags.add_error(
                "file stands alone", "Give either file, or name and site_file: the site knows where its packs are.",
                path=["file"],
            )  # fmt: skip
        elif alone is None and (named is None or config.get("site_file") is None):
            missing = "site_file" if named is not None else "name"
            diags.add_error(f"{missing} is missing", "Give name and site_file, or file alone.", path=[missing])

    def read(self, ctx: Any, config: State) -> State | None:
        """The pack; each fault of the files is a diagnostic of its own, at the attribute that led to the file."""
        try:
            if config.get("file") is not None:
                file = Path(config["file"])
                pack = load_pack(file)
                needs, ports, replicas, shared = pack.host, pack.ports, pack.replicas, []
            else:
                deployment, fleet = load_deployment(Path(config["site_file"]), config["name"])
                file, pack = deployment.file, deployment.pack
                needs, ports, replicas = deployment.host, deployment.ports, deployment.replicas
                shared = list(dict.fromkeys((fleet.shared, fleet.gateway))) if fleet else []
        except PackError as error:
            self._add_faults(ctx.diagnostics, config, error)
            return None
        for sentence in pack.advice():
            ctx.diagnostics.add_warning(f"Pack {pack.name}", f"{file}: {sentence}.")
        return {
            "name": pack.name,
            "site_file": config.get("site_file"),
            "file": str(file),
            "replicas": replicas,
            "needs": needs.model_dump(),
            "ports": ports.model_dump(),
            "shared_hosts": shared,
            **_of_pack(pack),
        }

    def _add_faults(self, diags: Any, config: State, error: PackError) -> None:
        for fault in error.faults:
            attribute = "file" if config.get("file") is not None else "name"
            if fault.file is not None and fault.file == config.get("site_file"):
                attribute = "site_file"
            where = f"{fault.field} " if fault.field else ""
            diags.add_error(
                f"{fault.file}: {fault.field or 'the file'} is wrong" if fault.file else "The pack is wrong",
                f"{where}{fault.message}.",
                path=[attribute],
            )


def _of_pack(pack: Pack) -> State:
    return {
        "aggregator": pack.aggregator,
        "languages": list(pack.languages),
        "concurrency": pack.concurrency,
        "checkpoints": [
            {"name": checkpoint.name, "role": checkpoint.role, "languages": list(checkpoint.languages)}
            for checkpoint in pack.checkpoints
        ],
    }
