"""The trackside daemon: takes in what trainers publish and turns it into pictures and files."""
