"""Time the pipeline beside the loop that everyone writes: `make benchmark`.

`naive` is that loop and decides which predictions are right, `timings` times it and the pipeline
on the images of `dataset`, `local_run` times `crossfold run`, `scale` counts time and memory for
up to 100,000 images, `report` writes docs/performance.md.
"""
