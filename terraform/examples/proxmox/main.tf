# Virtual machines with a GPU each on Proxmox VE, as a pool. NOT RUN HERE: written from the provider's documentation.
#
# PROXMOX_VE_ENDPOINT and PROXMOX_VE_API_TOKEN come from the environment. The template is a Debian or Ubuntu cloud image
# with cloud-init and the guest agent. Host keys: read them through the guest agent on the Proxmox node
# (`qm guest exec VMID -- cat /etc/ssh/ssh_host_ed25519_key.pub`), not over the network.

terraform {
  required_version = ">= 1.7.0"

  required_providers {
    proxmox = {
      source  = "bpg/proxmox"
      version = "~> 0.70"
    }
  }
}

variable "guests" {
  type        = map(object({ node = string, address = string, gpu = string }))
  description = "The guests by name: the Proxmox node, the guest's address, and the node's mapped PCI device."
  default = {
    l4-01 = { node = "pve-1", address = "10.20.0.11", gpu = "l4-a" }
    l4-02 = { node = "pve-2", address = "10.20.0.12", gpu = "l4-b" }
  }
}

variable "gateway" {
  type        = string
  description = "The network's router (e.g. 10.20.0.1)."
  default     = "10.20.0.1"
}

variable "template_id" {
  type        = number
  description = "The VM ID of the template (e.g. 9000)."
  default     = 9000
}

variable "public_key" {
  type        = string
  description = "The control machine's public SSH key, one line."
}

provider "proxmox" {}

resource "proxmox_virtual_environment_vm" "this" {
  for_each = var.guests

  name      = each.key
  node_name = each.value.node
  # PCIe passthrough needs the q35 machine.
  machine = "q35"
  bios    = "ovmf"

  clone {
    vm_id = var.template_id
  }

  agent {
    enabled = true
  }

  cpu {
    cores = 8
    type  = "host"
  }

  memory {
    dedicated = 32 * 1024
  }

  disk {
    interface    = "scsi0"
    datastore_id = "local-lvm"
    size         = 200
  }

  hostpci {
    device  = "hostpci0"
    mapping = each.value.gpu
    pcie    = true
  }

  network_device {
    bridge = "vmbr0"
  }

  initialization {
    ip_config {
      ipv4 {
        address = "${each.value.address}/24"
        gateway = var.gateway
      }
    }

    user_account {
      username = "ops"
      keys     = [var.public_key]
    }
  }
}

module "pool" {
  source = "../../modules/pool"

  ssh = { user = "ops" }
  hosts = {
    for name, guest in proxmox_virtual_environment_vm.this : name => {
      address        = var.guests[name].address
      gpus           = 1
      gpu_model      = "NVIDIA L4"
      gpu_memory_gib = 24
      ram_gib        = floor(guest.memory[0].dedicated / 1024)
      disk_gib       = 200
      rack           = var.guests[name].node
    }
  }
}

output "hosts_yaml" {
  description = "The pool file."
  value       = module.pool.hosts_yaml
}
