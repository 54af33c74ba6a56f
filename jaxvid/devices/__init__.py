"""What knows the devices and the processes of a run."""
