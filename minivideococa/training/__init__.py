"""Finetuning, with gradients by hand: lightweight finetuning and question answering of VideoCoCa.

In reading order:

gradients     for each formula of `model/ops.py` its backward, derived
tape          the model's own forward pass with its intermediates kept
backward      the backward pass of the stages, from the losses to the frame tokens
losses        captioning, contrastive and answer loss
parameters    which tensors are tuned; one flat vector of their values and one of their gradients
optimizer     AdamW, learning rate, clipping of gradients
data          examples and batches
tokens        frame tokens or pixels of clips, on disk
step          losses and gradients of a batch
options       what can be set
state         what a run leaves on disk: the saved states that it goes on from
log           the log of the losses, and its plot
loop          the steps, validation and saving; going on after an interruption
finetune      from a model and a manifest to a tuned model
kernels       how the optimizer is made fast
"""
