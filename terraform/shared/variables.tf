variable "site" {
  type        = string
  description = "The site, a folder of inventories/ (e.g. lab). The workspace's name when left out."
  default     = null
}

variable "project" {
  type        = string
  description = "The project's folder, with inventories/ (e.g. /srv/babelrack). This checkout when left out."
  default     = null
}
