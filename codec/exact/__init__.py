"""Networks in whole numbers: bit-identical on every machine, so they may decide the probabilities of a stream.

Activations are whole numbers of int8 range, weights are whole numbers of int8 range times a power of two a channel, and
both are carried in float32, where every partial sum stays below 2^24 and is thus exact in any order of summation.
`layers` are the convolutions and tables, `operations` what may stand between them, `blocks` the parts that priors are
built of, `warp` moves a recurrent state along transmitted vectors, `reference` is the same in pure NumPy integers.
"""
