terraform {
  required_version = ">= 1.7.0"

  required_providers {
    # Installed with the package: `babelrack provider install`.
    onprem = {
      source  = "babelrack/onprem"
      version = "~> 0.1"
    }
  }
}
