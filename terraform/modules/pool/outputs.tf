locals {
  header = "# Made by Terraform; change it there.\n"
  ssh    = { for field, value in var.ssh : field => value if value != null }
  hosts = {
    for name, host in var.hosts : name => { for field, value in host : field => value if value != null }
  }
}

output "hosts_yaml" {
  description = "The pool file: `terraform output -raw hosts_yaml > inventories/SITE/hosts.yaml`."
  value       = "${local.header}${yamlencode(merge({ hosts = local.hosts }, length(local.ssh) == 0 ? {} : { ssh = local.ssh }))}"
}
