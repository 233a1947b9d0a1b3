# Virtual machines with a GPU each on one libvirt host, as a pool. NOT RUN HERE: written from the provider's
# documentation.
#
# The hypervisor gives its GPUs to guests (IOMMU on, vfio-pci bound). Host keys: they are made here and put into the
# guests, so that known_hosts is right before the first connection; the state then holds the private ones, so keep it
# in an encrypted backend.

terraform {
  required_version = ">= 1.7.0"

  required_providers {
    libvirt = {
      source  = "dmacvicar/libvirt"
      version = "~> 0.8.3"
    }
    tls = {
      source  = "hashicorp/tls"
      version = "~> 4.0"
    }
  }
}

variable "guests" {
  type        = map(object({ gpu_bus = string }))
  description = "The guests by name, with the PCI bus of the hypervisor's GPU that each gets (e.g. 0x41)."
  default     = { l4-01 = { gpu_bus = "0x41" }, l4-02 = { gpu_bus = "0x61" } }
}

variable "image" {
  type        = string
  description = "A Debian or Ubuntu cloud image (e.g. /var/lib/libvirt/images/debian-12-generic-amd64.qcow2)."
}

variable "public_key" {
  type        = string
  description = "The control machine's public SSH key, one line."
}

provider "libvirt" {
  uri = "qemu:///system"
}

resource "tls_private_key" "host" {
  for_each = var.guests

  algorithm = "ED25519"
}

resource "libvirt_volume" "image" {
  name   = "babelrack-image"
  source = var.image
}

resource "libvirt_volume" "disk" {
  for_each = var.guests

  name           = each.key
  base_volume_id = libvirt_volume.image.id
  size           = 200 * 1024 * 1024 * 1024
}

resource "libvirt_cloudinit_disk" "this" {
  for_each = var.guests

  name = "${each.key}-cloudinit.iso"
  user_data = join("\n", ["#cloud-config", yamlencode({
    hostname = each.key
    ssh_keys = {
      ed25519_private = tls_private_key.host[each.key].private_key_openssh
      ed25519_public  = tls_private_key.host[each.key].public_key_openssh
    }
    users = [{
      name                = "ops"
      sudo                = "ALL=(ALL) NOPASSWD:ALL"
      shell               = "/bin/bash"
      ssh_authorized_keys = [var.public_key]
    }]
  })])
}

resource "libvirt_domain" "this" {
  for_each = var.guests

  name      = each.key
  memory    = 32 * 1024
  vcpu      = 8
  cloudinit = libvirt_cloudinit_disk.this[each.key].id

  cpu {
    mode = "host-passthrough"
  }

  disk {
    volume_id = libvirt_volume.disk[each.key].id
  }

  network_interface {
    network_name   = "default"
    hostname       = each.key
    wait_for_lease = true
  }

  # The provider has no field for PCI passthrough; its way is to change the domain's XML.
  xml {
    xslt = templatefile("${path.module}/passthrough.xslt.tftpl", { bus = each.value.gpu_bus })
  }
}

module "pool" {
  source = "../../modules/pool"

  ssh = { user = "ops" }
  hosts = {
    for name, guest in libvirt_domain.this : name => {
      address        = guest.network_interface[0].addresses[0]
      gpus           = 1
      gpu_model      = "NVIDIA L4"
      gpu_memory_gib = 24
      ram_gib        = 32
      disk_gib       = 200
    }
  }
}

output "hosts_yaml" {
  description = "The pool file."
  value       = module.pool.hosts_yaml
}

output "known_hosts" {
  description = "The guests' keys: `terraform output -raw known_hosts > inventories/SITE/known_hosts`."
  value = join("", [
    for name, guest in libvirt_domain.this :
    "${guest.network_interface[0].addresses[0]} ${tls_private_key.host[name].public_key_openssh}"
  ])
}
