"""What can be said of rows and of whole data sets: judges, and measures without one."""
