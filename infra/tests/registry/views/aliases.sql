-- Stand-in for mlsys/registry/views/aliases.sql: what each alias points to now,
-- in two lines of comment.
SELECT environment FROM ${events}
