variable "hosts" {
  type = map(object({
    address        = string
    gpus           = optional(number)
    gpu_model      = optional(string)
    gpu_memory_gib = optional(number)
    ram_gib        = number
    disk_gib       = number
    places         = optional(number)
    rack           = optional(string)
    labels         = optional(map(string))
    ssh_port       = optional(number)
  }))
  description = "The machines by name, with the fields of hosts.yaml (e.g. { gpu-1 = { address = \"10.20.0.11\", ram_gib = 64, disk_gib = 500 } })."

  validation {
    condition     = length(var.hosts) > 0
    error_message = "A pool without a machine is of no use. Give one host at least."
  }

  validation {
    condition     = alltrue([for name, _ in var.hosts : can(regex("^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$", name))])
    error_message = "A host's name has lower-case letters, digits and hyphens only. Take the first part of its domain name."
  }
}

variable "ssh" {
  type = object({
    user        = optional(string)
    port        = optional(number)
    private_key = optional(string)
    known_hosts = optional(string)
  })
  description = "How every machine is reached (e.g. { user = \"ubuntu\", known_hosts = \"inventories/lab/known_hosts\" })."
  default     = {}
}
