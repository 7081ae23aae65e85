"""Reading a request body: fields, bounds, rules between fields, and the words for mistakes."""
