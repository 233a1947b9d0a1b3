terraform {
  required_version = ">= 1.7.0"

  required_providers {
    onprem = {
      source  = "babelrack/onprem"
      version = "~> 0.1"
    }
  }
}
