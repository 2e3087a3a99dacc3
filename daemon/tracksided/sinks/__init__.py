"""Where reports go: step folders, TensorBoard, history."""
