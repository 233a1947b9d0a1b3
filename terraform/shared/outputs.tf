output "shared" {
  description = "The shared host and the gateway. Ansible's inventory reads it."
  value = local.fleet == null ? null : {
    site = local.site
    shared = {
      host    = local.fleet.shared
      address = data.onprem_host.this[local.fleet.shared].address
    }
    gateway = {
      host    = local.fleet.gateway
      address = data.onprem_host.this[local.fleet.gateway].address
    }
  }

  precondition {
    condition     = local.site != "default"
    error_message = "No site is chosen. Run `terraform workspace select -or-create SITE`, with the name of a folder of inventories/."
  }

  precondition {
    condition     = local.site == "default" || local.fleet != null
    error_message = "inventories/${local.site}/site.yaml has no `fleet`. Add fleet: {shared: HOST, gateway: HOST}, with names from hosts.yaml."
  }
}
