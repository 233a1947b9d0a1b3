output "deployment" {
  description = "Which host, place and GPUs each replica has. Ansible's inventory reads it."
  value       = module.pack.deployment
}
