# The models, one entry each: a second model is a second entry. Terraform reads this file by itself, on a laptop and in CI.
# The tables belong to the data engineering team, so their full paths stand here and are never derived.
models = {
  titanic-survival = {
    id_columns = ["passenger_id"]

    # The job's account may change everything in the dataset of its output table: hence none that holds anything else.
    environments = {
      dev = {
        source       = "shoufianesys.titanic.passengers"
        output_table = "shoufianesys.titanic_dev.predictions"
      }
      staging = {
        source                 = "shoufianesys.titanic.passengers"
        output_table           = "shoufianesys.titanic_staging.predictions"
        version                = "champion" # what an alias points to: a rollback changes the next run
        max_hours_between_runs = 26         # daily, and two hours to be late
      }
      prod = {
        source                 = "shoufianesys.titanic.passengers"
        output_table           = "shoufianesys.titanic_prod.predictions"
        version                = "champion"
        max_hours_between_runs = 26
      }
    }
  }
}
