# The rest is in one file per environment, because a backend takes no variables:
#   terraform init -backend-config=backends/dev.gcs.tfbackend
# The state buckets are made by hand (README.md, step 3): Terraform cannot keep its state in what it has yet to make.
terraform {
  backend "gcs" {}
}
