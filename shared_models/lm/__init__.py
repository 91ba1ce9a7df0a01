"""What is trained: the model, the text, and weights, on disk and on the wire.

PyTorch; of records nothing here knows more than how to refuse, and of Flower nothing.
"""
