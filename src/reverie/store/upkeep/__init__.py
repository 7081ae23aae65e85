"""What an operator does to a store as a whole: back it up, restore it, remove what is old."""
