# The rule of mlsys/names.py::service_account_id, which tests/test_infra_names.py compares with this file. Google allows 30
# characters: a longer name shortens staging to stg, then the model, keeping four digits of its SHA-256 so that two long
# names stay apart.
locals {
  limit  = 30
  full   = "${var.model_name}-${var.purpose}-sa-${var.environment}"
  suffix = "-${var.purpose}-sa-${var.environment == "staging" ? "stg" : var.environment}"

  hashed_suffix = "-${substr(sha256(var.model_name), 0, 4)}${local.suffix}"
  cut           = replace(substr(var.model_name, 0, local.limit - length(local.hashed_suffix)), "/-+$/", "")

  account_id = (
    length(local.full) <= local.limit ? local.full :
    length("${var.model_name}${local.suffix}") <= local.limit ? "${var.model_name}${local.suffix}" :
    "${local.cut}${local.hashed_suffix}"
  )
}
