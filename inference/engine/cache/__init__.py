"""The tiered block KV cache of one worker."""
