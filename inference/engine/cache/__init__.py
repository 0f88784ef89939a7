"""The tiered block KV cache of one worker: blocks of 64 tokens and tails, in RAM and on SSD.

names.py          a block's name: a hash chained over the model, the partition and all tokens up to its end
state.py          llama.cpp's state of a sequence, cut into ranges of tokens and joined again
words.py          the bytes that it is made of
compatibility.py  what KV must have in common to be exchanged
blocks.py         both tiers as the engine sees them: match, fetch, save
checkpoints.py    the same for models with recurrent layers, whose state can't be cut
ram.py            the RAM tier
disk.py           the SSD tier; the map of its rooms is at its top
ranking.py        who goes first
"""
