"""What writes the generated parts of docs/, or checks that they are current."""
