"""The module over Terraform, with the real terraform on small roots that need no provider."""

import os
import shutil
import textwrap

import pytest

from babelrack.fleet import FleetError
from babelrack.fleet.replicas import Replica, inventory_name, parse_replicas
from babelrack.fleet.terraform import Root

pytestmark = pytest.mark.skipif(shutil.which("terraform") is None, reason="terraform is not installed")

MAIN = """
variable "replicas" {
  default = "1"
}

resource "terraform_data" "claim" {
  for_each = toset([for index in range(tonumber(var.replicas)) : tostring(index)])
  input    = "host-${each.key}"
}

output "deployment" {
  value = {
    pack     = "indic"
    site     = terraform.workspace
    replicas = {
      for index, claim in terraform_data.claim :
      index => { host = claim.output, address = "10.0.0.1", place = 0, gpu_ids = [0, 1] }
    }
  }
}
"""


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "indic"
    folder.mkdir()
    (folder / "main.tf").write_text(MAIN)
    return folder


def root(folder, site="lab", **variables):
    made = Root(folder, site, variables)
    made.prepare()
    return made


def apply(made, **options):
    with made.plan(**options) as plan:
        if not plan.empty:
            made.apply(plan)
        return plan


def test_what_is_applied_is_what_was_planned_and_a_second_plan_is_empty(folder, capfd):
    made = root(folder, replicas="2")
    first = apply(made)
    assert [change.actions for change in first.changes] == [("create",), ("create",)]
    assert "2 to add" in first.text
    assert "Apply complete" in capfd.readouterr().out
    assert [*made.outputs()["deployment"]["replicas"]] == ["0", "1"]
    second = apply(made)
    assert second.empty
    assert "No changes" in second.text


def test_each_site_has_a_state_of_its_own(folder):
    apply(root(folder, "lab"))
    elsewhere = Root(folder, "elsewhere", {})
    assert elsewhere.outputs() == {}
    elsewhere.prepare()
    with elsewhere.plan() as plan:
        assert [change.actions for change in plan.changes] == [("create",)]
    assert Root(folder, "lab").outputs()["deployment"]["site"] == "lab"


def test_somebody_who_selects_another_workspace_changes_nothing_for_us(folder):
    lab = root(folder, "lab")
    root(folder, "production")
    apply(lab)
    assert lab.outputs()["deployment"]["site"] == "lab"
    assert Root(folder, "production").outputs() == {}


def test_a_plan_names_the_replicas_that_it_releases(folder):
    apply(root(folder, replicas="3"))
    with root(folder, replicas="1").plan() as plan:
        assert sorted(plan.deleted("terraform_data")) == ["1", "2"]
        assert plan.deleted("onprem_host_claim") == ()
    with root(folder, replicas="3").plan(destroy=True) as plan:
        assert sorted(plan.deleted("terraform_data")) == ["0", "1", "2"]


def test_a_plan_is_private_and_gone_afterwards(folder):
    with root(folder).plan() as plan:
        assert plan.file.parent.stat().st_mode & 0o077 == 0
    assert not plan.file.parent.exists()


def test_terraforms_own_words_come_in_one_error(folder):
    (folder / "main.tf").write_text('output "x" {\n  value = nonsense.y\n}\n')
    made = Root(folder, "lab")
    made.prepare()
    with pytest.raises(FleetError) as caught, made.plan():
        pass
    assert "terraform plan of indic at lab failed: Reference to undeclared resource" in str(caught.value)
    assert "│" not in str(caught.value)


def test_an_apply_that_fails_says_so(folder, capfd):
    (folder / "main.tf").write_text(
        textwrap.dedent(
            """
            resource "terraform_data" "bad" {
              provisioner "local-exec" {
                command = "exit 3"
              }
            }
            """
        )
    )
    with pytest.raises(FleetError, match="terraform apply of indic at lab failed"):
        apply(root(folder))
    assert "local-exec" in capfd.readouterr().err


def test_a_root_that_is_not_there_is_named_with_the_fix(tmp_path):
    with pytest.raises(FleetError, match=r"nosuch has no main\.tf; make the pack's Terraform root with"):
        Root(tmp_path / "nosuch", "lab")


def test_the_environment_is_left_as_it_was(folder, monkeypatch):
    monkeypatch.setenv("TF_WORKSPACE", "other")
    monkeypatch.setenv("TF_CLI_CONFIG_FILE", "/no/such/file")
    before = dict(os.environ)
    root(folder).outputs()
    assert dict(os.environ) == before


def test_replicas_are_read_from_the_outputs(folder):
    made = root(folder, replicas="2")
    apply(made)
    replicas = parse_replicas(made.outputs(), "the state of indic at lab")
    assert replicas == (
        Replica(0, "host-0", "10.0.0.1", 0, (0, 1)),
        Replica(1, "host-1", "10.0.0.1", 0, (0, 1)),
    )
    assert parse_replicas({}, "x") == ()


def test_outputs_of_another_form_are_refused():
    with pytest.raises(FleetError, match="The state of indic at lab has no readable output `deployment`"):
        parse_replicas({"deployment": {"replicas": {"zero": {}}}}, "the state of indic at lab")


def test_a_replica_has_the_name_that_ansible_knows_it_by():
    assert inventory_name("western_sea", 0) == "western-sea-0"
