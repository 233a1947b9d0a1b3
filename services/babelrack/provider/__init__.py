"""The Terraform provider `onprem`: packs, the hosts of a site's pool, and who holds their places."""
