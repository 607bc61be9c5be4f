"""The worker boundary: functions that take and give plain JSON values, and never raise numerics."""
