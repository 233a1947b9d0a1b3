data "onprem_pack" "this" {
  name      = var.pack
  site_file = "${var.project}/inventories/${var.site}/site.yaml"
}

# Counted, not named: scaling down gives back the host of the highest replica, and the others stay where they are.
# Nothing of the checkpoints is here, so changing them claims and releases nothing.
resource "onprem_host_claim" "replica" {
  count = coalesce(var.replicas, data.onprem_pack.this.replicas)

  pack    = var.pack
  site    = var.site
  replica = count.index

  needs     = data.onprem_pack.this.needs
  ports     = data.onprem_pack.this.ports
  gpu_model = var.gpu_model
  labels    = var.labels

  # A pack that shares a machine with the gateway takes every pack down with it when it takes the machine down.
  avoid = data.onprem_pack.this.shared_hosts
}
