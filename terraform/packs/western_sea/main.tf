# The hosts of the pack western_sea. One state for each site, which is the workspace's name:
#
#   terraform init
#   terraform workspace select -or-create lab
#   terraform apply

locals {
  project = coalesce(var.project, abspath("${path.root}/../../.."))
  site    = coalesce(var.site, terraform.workspace)
}

provider "onprem" {
  pool = "${local.project}/inventories/${local.site}/hosts.yaml"
}

module "pack" {
  source = "../../modules/language_pack"

  pack      = "western_sea"
  site      = local.site
  project   = local.project
  replicas  = var.replicas
  gpu_model = var.gpu_model
  labels    = var.labels
}
