"""Codecs: what becomes of payloads between a client or a worker and the engine.

::

    api.py        PayloadCodec, what users derive their own from
    zstd.py       compression
    aes_gcm.py    encryption, with keys by reference
    keys.py       keys by reference
    offload.py    large payloads, put elsewhere
    sizes.py      sizes as people write them
    walk.py       finds the payloads in any message, and puts others in their place
    chain.py      several codecs, one after another
    service.py    the Service that encodes what is sent and decodes what arrives

Without codecs none of this is loaded.
"""
