"""What several families share: convolutions, attention, norms, pools, positions, heads and trunks.

Where arrays change shape much (`attention`, `conv`, `non_local`, `pool`, `swin`, `vit`, `window`)
their names end in their axes, outermost first, as in `x_BTHWC` or `q_BQND`. A file that does so
begins with the letters that it needs of these; elsewhere docstrings give shapes in them.

    B  batch
    T  frames
    H  height
    W  width
    C  channels
    L  tokens of a sequence
    Q  queries
    K  keys
    N  heads
    D  channels of a head
    E  channels of a head's values
    R  rows of a table
    I  channels into a kernel, those of one group
    O  channels out of a kernel
    M  many in a row: frames or windows, of one sample or of all
    P  pieces, computed one after another
    t, h, w  what a kernel or window spans of T, H, W; beside them T, H, W count such spans
    1, 3  an axis of this size

A size that an operation changes has a prime in docstrings: [B, T', H', W', C]. Names have none.
"""
