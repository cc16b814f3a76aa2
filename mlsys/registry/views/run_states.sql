-- Every execution of every run with what became of it: state is succeeded, failed, running, or killed when it ended
-- without a word: it started more than a day ago, or a later execution of the same run has ended since.
SELECT
  * EXCEPT (status),
  CASE
    WHEN status != 'started' THEN status
    WHEN started_timestamp < TIMESTAMP_SUB(CURRENT_TIMESTAMP(), INTERVAL 24 HOUR) THEN 'killed'
    WHEN started_timestamp < MAX(IF(status = 'started', NULL, started_timestamp)) OVER (PARTITION BY run_id) THEN 'killed'
    ELSE 'running'
  END AS state
FROM ${runs}
