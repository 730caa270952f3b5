"""What the pipeline's speed is, beside the loop that everyone writes; `make benchmark`.

`workload` says what is computed, `dataset` writes the files, `naive` is the usual loop, `adapter`
is the pipeline's own functions, `paths` times both, each path in a process of its own, `rounds`
interleaves the paths and drops what others disturbed, `figures` are the ratios, `goals` what they
should be, `report` writes docs/performance.md. `startup` and `scale` stand beside the rounds.
"""
