"""The stages: functions from a DataFrame to a DataFrame."""
