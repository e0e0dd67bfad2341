"""What only the course needs: parameters that are checked, exercises that answer, and its diagrams."""
