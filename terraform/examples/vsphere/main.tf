# Virtual machines with a GPU each on VMware vSphere, as a pool. NOT RUN HERE: written from the provider's documentation.
#
# VSPHERE_SERVER, VSPHERE_USER and VSPHERE_PASSWORD come from the environment. The template is a Debian or Ubuntu image
# with VMware tools and the account `ops`. Host keys: read them at the machine's console and compare.

terraform {
  required_version = ">= 1.7.0"

  required_providers {
    vsphere = {
      source  = "vmware/vsphere"
      version = "~> 2.12"
    }
  }
}

variable "guests" {
  type        = map(object({ esxi = string, address = string, gpu = string }))
  description = "The guests by name: the ESXi host, the guest's address, and the PCI ID of that host's GPU."
  default = {
    l4-01 = { esxi = "esxi-1.example.org", address = "10.20.0.11", gpu = "0000:41:00.0" }
    l4-02 = { esxi = "esxi-2.example.org", address = "10.20.0.12", gpu = "0000:41:00.0" }
  }
}

variable "site" {
  type        = object({ datacenter = string, cluster = string, datastore = string, network = string, template = string })
  description = "Where in vSphere the guests live, and the template that they are cloned from."
}

variable "gateway" {
  type        = string
  description = "The network's router (e.g. 10.20.0.1)."
  default     = "10.20.0.1"
}

provider "vsphere" {}

data "vsphere_datacenter" "this" {
  name = var.site.datacenter
}

data "vsphere_compute_cluster" "this" {
  name          = var.site.cluster
  datacenter_id = data.vsphere_datacenter.this.id
}

data "vsphere_datastore" "this" {
  name          = var.site.datastore
  datacenter_id = data.vsphere_datacenter.this.id
}

data "vsphere_network" "this" {
  name          = var.site.network
  datacenter_id = data.vsphere_datacenter.this.id
}

data "vsphere_host" "this" {
  for_each = var.guests

  name          = each.value.esxi
  datacenter_id = data.vsphere_datacenter.this.id
}

data "vsphere_virtual_machine" "template" {
  name          = var.site.template
  datacenter_id = data.vsphere_datacenter.this.id
}

resource "vsphere_virtual_machine" "this" {
  for_each = var.guests

  name             = each.key
  resource_pool_id = data.vsphere_compute_cluster.this.resource_pool_id
  host_system_id   = data.vsphere_host.this[each.key].id
  datastore_id     = data.vsphere_datastore.this.id
  guest_id         = data.vsphere_virtual_machine.template.guest_id
  firmware         = "efi"
  num_cpus         = 8
  memory           = 32 * 1024
  # A machine with a passed-through device can't have its memory swapped.
  memory_reservation = 32 * 1024
  pci_device_id      = [each.value.gpu]

  network_interface {
    network_id = data.vsphere_network.this.id
  }

  disk {
    label = "disk0"
    size  = 200
  }

  clone {
    template_uuid = data.vsphere_virtual_machine.template.id

    customize {
      linux_options {
        host_name = each.key
        domain    = "example.org"
      }

      network_interface {
        ipv4_address = each.value.address
        ipv4_netmask = 24
      }

      ipv4_gateway = var.gateway
    }
  }
}

module "pool" {
  source = "../../modules/pool"

  ssh = { user = "ops" }
  hosts = {
    for name, guest in vsphere_virtual_machine.this : name => {
      address        = guest.default_ip_address
      gpus           = 1
      gpu_model      = "NVIDIA L4"
      gpu_memory_gib = 24
      ram_gib        = floor(guest.memory / 1024)
      disk_gib       = 200
      rack           = var.guests[name].esxi
    }
  }
}

output "hosts_yaml" {
  description = "The pool file."
  value       = module.pool.hosts_yaml
}
