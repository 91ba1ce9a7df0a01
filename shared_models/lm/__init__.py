"""What is trained: the model, the text, and weights on disk. PyTorch; nothing here knows of records or of Flower."""
