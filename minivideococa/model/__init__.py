"""The network: pure functions over NumPy arrays.

It imports NumPy alone (`kernels.py` also threadpoolctl) and nothing else from the package. What needs files
or a tokenizer is passed in.

In reading order:

config        the dimensions of a model, and checks of arguments
ops           the formulas: linear, layer_norm, gelu, softmax, attention
transformer   mlp, residual block, key-value cache
vision        patchify, frozen image encoder
pooling       flatten, attentional poolers: VideoCoCa's step
text          unimodal text decoder
decoder       multimodal text decoder
generation    DecodingOptions, greedy decoding, sampling, beam search
videococa     forward, and VideoCoCa, which ties the stages together
hooks         trace, patch, replace_operations
kernels       how NumPy is made fast
"""
