"""Reading a small YAML document that people write by hand, without any of YAML's surprises.

No tags beyond plain data, no aliases (an alias bomb needs them), no key twice, bounded in bytes and depth.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import yaml

from babelrack.packs.faults import Fault, PackError, shown

if TYPE_CHECKING:
    from collections.abc import Hashable
    from pathlib import Path

MAX_BYTES: Final = 64 * 1024
MAX_DEPTH: Final = 16
_PLAIN_TAGS: Final = tuple(
    f"tag:yaml.org,2002:{kind}" for kind in ("null", "bool", "int", "float", "str", "seq", "map", "merge")
)


class _Loader(yaml.SafeLoader):
    """`yaml.SafeLoader`, restricted to plain data."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self.depth = 0
        self.duplicates: list[Fault] = []

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        here: yaml.Mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
        if self.check_event(yaml.events.AliasEvent):
            raise yaml.MarkedYAMLError(problem="an alias is not allowed; write the value out", problem_mark=here)
        self.depth += 1
        if self.depth > MAX_DEPTH:
            problem = f"it is nested deeper than {MAX_DEPTH} levels"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=here)
        node: yaml.Node | None = super().compose_node(parent, index)
        self.depth -= 1
        if node is not None and node.tag not in _PLAIN_TAGS:
            problem = f"{node.tag[:60]} is not plain data; put the value in quotes"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    line = key.start_mark.line + 1
                    self.duplicates.append(
                        Fault("", f"line {line} writes {shown(key.value)} a second time; keep one of them")
                    )
                seen.add(key.value)
        return super().construct_mapping(node, deep=deep)


def read_document(path: Path) -> Any:
    """The plain data in a YAML file; raises `PackError` for one that can't be read or isn't plain YAML."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        reason = "does not exist; check its path" if isinstance(error, FileNotFoundError) else f"can't be read: {error}"
        raise PackError([Fault("", f"the file {reason}")]) from None
    return parse_document(content)


def parse_document(content: bytes) -> Any:
    """The plain data in a YAML text of at most 64 KiB; raises `PackError` otherwise."""
    if len(content) > MAX_BYTES:
        raise PackError([Fault("", f"the file is larger than {MAX_BYTES // 1024} KiB; is it the right one?")])
    try:
        loader = _Loader(content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise PackError([Fault("", f"the file is not UTF-8 at byte {error.start}; save it as UTF-8")]) from None
    except yaml.YAMLError as error:
        raise PackError([Fault("", f"the file is not YAML ({_reason(error)}); correct it")]) from None
    try:
        data = loader.get_single_data()
    except yaml.YAMLError as error:
        raise PackError([Fault("", f"the file is not plain YAML ({_reason(error)}); correct it")]) from None
    except (ValueError, OverflowError, TypeError, RecursionError) as error:
        raise PackError(
            [Fault("", f"the file has a value that can't be read ({shown(str(error))}); correct it")]
        ) from None
    finally:
        loader.dispose()
    if loader.duplicates:
        raise PackError(loader.duplicates)
    return data


def _reason(error: yaml.YAMLError) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem:
        mark = error.problem_mark or error.context_mark
        problem = " ".join(error.problem.split())
        return f"line {mark.line + 1}: {problem}" if mark else problem
    return " ".join(str(error).split())[:160]
