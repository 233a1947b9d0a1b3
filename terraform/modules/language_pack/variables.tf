variable "pack" {
  type        = string
  description = "The pack's name (e.g. western_sea). Its file is packs/<name>.yaml."

  validation {
    condition     = can(regex("^[a-z][a-z0-9_]{0,30}$", var.pack))
    error_message = "Write a lower-case letter, then at most 30 lower-case letters, digits and underscores."
  }
}

variable "site" {
  type        = string
  description = "The site, a folder of inventories/ (e.g. lab)."

  # Terraform's own first workspace is called default. A state that belongs to no site in particular would sooner or
  # later be applied to the wrong one.
  validation {
    condition     = var.site != "default"
    error_message = "No site is chosen. Run `terraform workspace select -or-create SITE`, with the name of a folder of inventories/."
  }
}

variable "project" {
  type        = string
  description = "The project's folder, with packs/ and inventories/ (e.g. /srv/babelrack)."
}

variable "replicas" {
  type        = number
  description = "How many hosts run the pack (e.g. 2). What the site or the pack file says when null."
  default     = null

  validation {
    condition     = var.replicas == null ? true : var.replicas >= 0 && floor(var.replicas) == var.replicas
    error_message = "Write a whole number of replicas. With 0 the pack keeps its state and gives all its hosts back."
  }
}

variable "gpu_model" {
  type        = string
  description = "The GPUs' model (e.g. L4, A100 80GB). Any that has the memory when null."
  default     = null
}

variable "labels" {
  type        = map(string)
  description = "Labels that a host must have in hosts.yaml (e.g. { room = \"b\" })."
  default     = {}
}
