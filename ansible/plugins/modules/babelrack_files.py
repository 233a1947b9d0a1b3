#!/usr/bin/python
"""Several files, folders and links of a host in one step: each step of its own costs a connection and a Python."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = """
module: babelrack_files
short_description: Several files, folders and links of a host, in one step
description:
  - What is as it should be stays untouched; a file that isn't is replaced by a rename, so nobody reads half of it.
options:
  files:
    description: What there should be, in the order in which it is made.
    type: list
    elements: dict
    required: true
    suboptions:
      path: {description: Where., type: path, required: true}
      state:
        description: V(file) has O(files[].content), V(link) points to O(files[].target), V(absent) is nothing at all.
        type: str
        choices: [file, directory, link, absent]
        default: file
      content: {description: The whole text of a file., type: str}
      secret: {description: 'The same, where it must not be shown.', type: str}
      target: {description: What a link points to., type: str}
      mode: {description: 'Octal, in quotes; 0644 for files and 0755 for folders when left out.', type: str}
      owner: {description: A user's name., type: str, default: root}
      group: {description: A group's name., type: str, default: root}
      validate:
        description: A command that must succeed for a file before it is put in its place, which is its C(%s).
        type: str
author: [Babelrack]
"""

EXAMPLES = """
- name: Write the settings
  babelrack_files:
    files:
      - {path: /etc/babelrack/packs/indic, state: directory}
      - path: /etc/babelrack/packs/indic/api.env
        content: "{{ lookup('ansible.builtin.template', 'api.env.j2') }}"
        mode: "0640"
"""

RETURN = """
paths:
  description: What was changed, of the paths given.
  type: list
  elements: str
  returned: always
"""

_FILE = {
    "path": {"type": "path", "required": True},
    "state": {"type": "str", "choices": ["file", "directory", "link", "absent"], "default": "file"},
    "content": {"type": "str"},
    "secret": {"type": "str", "no_log": True},
    "target": {"type": "str"},
    "mode": {"type": "str"},
    "owner": {"type": "str", "default": "root"},
    "group": {"type": "str", "default": "root"},
    "validate": {"type": "str"},
}


def main() -> None:
    """Run as a module."""
    options = {"files": {"type": "list", "elements": "dict", "required": True, "options": _FILE}}
    module = AnsibleModule(options, supports_check_mode=True)
    make = {"file": _file, "directory": _directory, "link": _link, "absent": _absent}
    paths, diffs = [], []
    for file in module.params["files"]:
        path = Path(file["path"])
        before = _shown(path)
        if make[file["state"]](module, file, path):
            paths.append(str(path))
            after = file["content"] or file["target"] or file["state"]
            if file["secret"] is not None:
                before = after = "not shown"
            diffs.append({"before_header": str(path), "after_header": str(path), "before": before, "after": after})
    module.exit_json(changed=bool(paths), paths=paths, **({"diff": diffs} if module._diff else {}))


def _shown(path: Path) -> str:
    if path.is_symlink():
        return str(path.readlink())
    if path.is_dir():
        return "directory"
    return path.read_text(errors="replace") if path.is_file() else "absent"


def _file(module: AnsibleModule, file: dict[str, Any], path: Path) -> bool:
    text = file["content"] if file["secret"] is None else file["secret"]
    if text is None:
        module.fail_json(msg=f"{path} has no content; give it one, or another state than file")
    if path.is_dir():
        module.fail_json(msg=f"{path} is a folder, and should be a file; remove it")
    content = text.encode()
    if path.is_file() and not path.is_symlink() and path.read_bytes() == content:
        return _attributes(module, file, path, "0644")
    if not path.parent.is_dir() and not module.check_mode:
        module.fail_json(msg=f"{path} can't be written: its folder isn't there")
    # Beside it, so that it gets there in one step; in check mode the folder may be missing.
    handle, name = tempfile.mkstemp(".new", f".{path.name}.", path.parent if path.parent.is_dir() else None)
    try:
        with os.fdopen(handle, "wb") as new:
            new.write(content)
        if file["validate"]:
            code, out, err = module.run_command(file["validate"].replace("%s", name))
            if code:
                module.fail_json(msg=f"{path} would not be valid: {(err or out).strip()}")
        if not module.check_mode:
            # The mode first: at no moment may somebody read in the new place what they couldn't in the old one.
            _attributes(module, file, Path(name), "0644")
            Path(name).replace(path)
    finally:
        Path(name).unlink(missing_ok=True)
    return True


def _directory(module: AnsibleModule, file: dict[str, Any], path: Path) -> bool:
    made = not path.is_dir()
    if made and module.check_mode:
        return True
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        module.fail_json(msg=f"{path} can't be made: {error.strerror}")
    return _attributes(module, file, path, "0755") or made


def _link(module: AnsibleModule, file: dict[str, Any], path: Path) -> bool:
    if file["target"] is None:
        module.fail_json(msg=f"{path} has no target; say what the link points to")
    if path.is_symlink() and str(path.readlink()) == file["target"]:
        return False
    if not module.check_mode:
        new = path.with_name(f".{path.name}.new")
        new.unlink(missing_ok=True)
        new.symlink_to(file["target"])
        new.replace(path)
    return True


def _absent(module: AnsibleModule, file: dict[str, Any], path: Path) -> bool:
    if not path.is_symlink() and not path.exists():
        return False
    if not module.check_mode:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    return True


def _attributes(module: AnsibleModule, file: dict[str, Any], path: Path, mode: str) -> bool:
    wanted = {"path": str(path), "owner": file["owner"], "group": file["group"], "mode": file["mode"] or mode}
    return module.set_fs_attributes_if_different(module.load_file_common_arguments(wanted), changed=False)


if __name__ == "__main__":
    main()
