-- Stand-in for mlsys/registry/views/run_states.sql.
SELECT environment FROM ${runs}
