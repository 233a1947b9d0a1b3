variable "site" {
  type        = string
  description = "The site, a folder of inventories/ (e.g. lab). The workspace's name when left out."
  default     = null
}

variable "project" {
  type        = string
  description = "The project's folder, with packs/ and inventories/ (e.g. /srv/babelrack). This checkout when left out."
  default     = null
}

variable "replicas" {
  type        = number
  description = "How many hosts run the pack (e.g. 2). What the site or the pack file says when left out."
  default     = null
}

variable "gpu_model" {
  type        = string
  description = "The GPUs' model (e.g. L4, A100 80GB). Any that has the memory when left out."
  default     = null
}

variable "labels" {
  type        = map(string)
  description = "Labels that a host must have in hosts.yaml (e.g. { room = \"b\" })."
  default     = {}
}
