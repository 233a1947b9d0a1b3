# The hosts of what all packs share: the licence proxy, Redis and the monitoring on one, the gateway on the same or
# another. The site's `fleet` names them; this root sees that they are there. One state for each site:
#
#   terraform init
#   terraform workspace select -or-create lab
#   terraform apply

locals {
  project = coalesce(var.project, abspath("${path.root}/../.."))
  site    = coalesce(var.site, terraform.workspace)
  fleet   = try(yamldecode(file("${local.project}/inventories/${local.site}/site.yaml")).fleet, null)
}

provider "onprem" {
  pool = "${local.project}/inventories/${local.site}/hosts.yaml"
}

# Reading a host connects to it, so a machine that is off or has an unknown host key stops the plan with its name.
data "onprem_host" "this" {
  for_each = toset(local.fleet == null ? [] : [local.fleet.shared, local.fleet.gateway])

  name = each.key
}
