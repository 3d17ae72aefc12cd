"""What decides whether runs differ: functions of arrays and numbers that know nothing of runs."""
