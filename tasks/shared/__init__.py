"""What the exams of several families use: data by steps, laws, digits, distances, drawing."""
