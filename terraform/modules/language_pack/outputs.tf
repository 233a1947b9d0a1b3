output "deployment" {
  description = "Which host, place and GPUs each replica has, by the replica's number."
  value = {
    pack = var.pack
    site = var.site
    replicas = {
      for claim in onprem_host_claim.replica : tostring(claim.replica) => {
        host    = claim.host
        address = claim.address
        place   = claim.place
        gpu_ids = claim.gpu_ids
      }
    }
  }
}
