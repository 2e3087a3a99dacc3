"""How a training went: readers of what trainers write, a summary, plots and a comparison."""
