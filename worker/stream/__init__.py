"""One call: its audio in order, decoded and at the rate of the model."""
