"""What a killed DVC leaves behind, and the commands that repair it."""
