"""Backends elsewhere: versions that are no GGUF here, but a model behind an OpenAI-compatible URL.

values.py       what a gateway must know of one
addresses.py    which addresses may be connected to
client.py       connections that go to such addresses only
sealing.py      their API keys, as SQL holds them
models.py, services.py, selectors.py, checking.py, serializers.py, apis.py    as everywhere
"""
