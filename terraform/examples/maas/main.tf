# Bare metal that MAAS deploys, as a pool. NOT RUN HERE: written from the provider's documentation.
#
# MAAS_API_URL and MAAS_API_KEY come from the environment. Host keys: cloud-init prints them to the machine's console
# log, which MAAS keeps; compare what `ssh-keyscan` collects with it.

terraform {
  required_version = ">= 1.7.0"

  required_providers {
    maas = {
      source  = "canonical/maas"
      version = "~> 2.4"
    }
  }
}

variable "machines" {
  type        = map(object({ gpus = number, gpu_model = string, gpu_memory_gib = number, disk_gib = number }))
  description = "The machines to deploy, by their name in MAAS, with what MAAS doesn't know about them."
  default = {
    l4-01 = { gpus = 1, gpu_model = "NVIDIA L4", gpu_memory_gib = 24, disk_gib = 500 }
    l4-02 = { gpus = 1, gpu_model = "NVIDIA L4", gpu_memory_gib = 24, disk_gib = 500 }
  }
}

provider "maas" {}

resource "maas_instance" "this" {
  for_each = var.machines

  allocate_params {
    hostname = each.key
  }

  deploy_params {
    distro_series = "jammy"
  }

  timeouts {
    create = "60m"
  }
}

module "pool" {
  source = "../../modules/pool"

  ssh = { user = "ubuntu" }
  hosts = {
    for name, machine in maas_instance.this : name => merge(var.machines[name], {
      address = sort(machine.ip_addresses)[0]
      ram_gib = floor(machine.memory / 1024)
    })
  }
}

output "hosts_yaml" {
  description = "The pool file."
  value       = module.pool.hosts_yaml
}
