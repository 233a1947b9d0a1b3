# What the module makes of a pack, without a host: `terraform test`.

mock_provider "onprem" {
  mock_data "onprem_pack" {
    defaults = {
      replicas     = 2
      needs        = { gpus = 1, gpu_memory_gib = 16, ram_gib = 16, disk_gib = 40 }
      ports        = { api = 7100, model = 2233, metrics = 9090 }
      shared_hosts = ["shared-1"]
    }
  }

  mock_resource "onprem_host_claim" {
    defaults = {
      host    = "gpu-1"
      address = "10.20.0.11"
      place   = 1
      gpu_ids = [4, 5, 6, 7]
    }
  }
}

variables {
  pack    = "indic"
  site    = "lab"
  project = "/srv/babelrack"
}

run "the_site_says_how_many_replicas" {
  assert {
    condition     = length(onprem_host_claim.replica) == 2
    error_message = "The module claims ${length(onprem_host_claim.replica)} hosts, and the pack has 2 replicas."
  }

  assert {
    condition     = data.onprem_pack.this.site_file == "/srv/babelrack/inventories/lab/site.yaml"
    error_message = "The site file is ${data.onprem_pack.this.site_file}."
  }
}

run "each_claim_has_the_packs_needs_and_ports" {
  assert {
    condition = alltrue([
      for index, claim in onprem_host_claim.replica : (
        claim.replica == index && claim.pack == "indic" && claim.site == "lab" && claim.needs.gpu_memory_gib == 16 &&
        claim.ports.api == 7100 && claim.avoid == tolist(["shared-1"])
      )
    ])
    error_message = "A claim asks for something else than the pack does."
  }
}

run "the_output_is_what_the_inventory_reads" {
  assert {
    condition = output.deployment == {
      pack = "indic"
      site = "lab"
      replicas = {
        "0" = { host = "gpu-1", address = "10.20.0.11", place = 1, gpu_ids = tolist([4, 5, 6, 7]) }
        "1" = { host = "gpu-1", address = "10.20.0.11", place = 1, gpu_ids = tolist([4, 5, 6, 7]) }
      }
    }
    error_message = "The output's form has changed, and the inventory plugin relies on it."
  }
}

run "a_variable_wins_over_the_site" {
  variables {
    replicas  = 3
    gpu_model = "L4"
    labels    = { room = "b" }
  }

  assert {
    condition     = length(onprem_host_claim.replica) == 3
    error_message = "The module claims ${length(onprem_host_claim.replica)} hosts, and 3 were asked for."
  }

  assert {
    condition     = alltrue([for claim in onprem_host_claim.replica : claim.gpu_model == "L4" && claim.labels.room == "b"])
    error_message = "A claim doesn't ask for the model and the labels."
  }
}

run "no_replicas_is_a_number_too" {
  variables {
    replicas = 0
  }

  assert {
    condition     = length(output.deployment.replicas) == 0
    error_message = "With 0 replicas nothing is claimed."
  }
}

run "the_first_workspace_is_no_site" {
  command = plan

  variables {
    site = "default"
  }

  expect_failures = [var.site]
}

run "a_name_that_no_pack_can_have_is_refused" {
  command = plan

  variables {
    pack = "West-Sea"
  }

  expect_failures = [var.pack]
}

run "half_a_replica_is_refused" {
  command = plan

  variables {
    replicas = 1.5
  }

  expect_failures = [var.replicas]
}
