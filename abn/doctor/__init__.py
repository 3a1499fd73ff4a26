"""What killed processes leave in a clone of this project, and the commands that repair it."""
