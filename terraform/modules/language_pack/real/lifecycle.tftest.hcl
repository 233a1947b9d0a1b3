# One pack's life on real hosts: `terraform test -test-directory=real -var=project=DIR`, where DIR has packs/indic.yaml and
# inventories/lab/ with two free hosts. What it claims it releases.

provider "onprem" {
  pool = "${var.project}/inventories/lab/hosts.yaml"
}

variables {
  pack = "indic"
  site = "lab"
}

run "one_replica_claims_one_host" {
  variables {
    replicas = 1
  }

  assert {
    condition     = onprem_host_claim.replica[0].id == "${output.deployment.replicas["0"].host}/place-0"
    error_message = "The claim is ${onprem_host_claim.replica[0].id}."
  }
}

run "another_replica_claims_another_host" {
  variables {
    replicas = 2
  }

  assert {
    condition     = output.deployment.replicas["0"] == run.one_replica_claims_one_host.deployment.replicas["0"]
    error_message = "Scaling up moved a replica that was there."
  }

  assert {
    condition     = output.deployment.replicas["1"].host != output.deployment.replicas["0"].host
    error_message = "Both replicas are on ${output.deployment.replicas["0"].host}."
  }
}

run "scaling_down_keeps_the_first" {
  variables {
    replicas = 1
  }

  assert {
    condition     = output.deployment == run.one_replica_claims_one_host.deployment
    error_message = "Scaling down moved or released the wrong replica."
  }
}
