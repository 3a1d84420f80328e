"""What the jobs share: configs, run directories, console, scheduling of runs. Importing it sets nothing."""
