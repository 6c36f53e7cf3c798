"""The model: what it computes (ldiaf), how Keras fits it (trainer), and its bounds from many samples (estimator)."""
