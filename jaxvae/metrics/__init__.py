"""What is measured of a trained model, always with its protocol: likelihoods, distances of sets of
images, grids of points, latents.

Stands on data and models' contracts, not on training; imported by presets, experiments and users.
Import the file that you need: `from jaxvae.metrics import fid`.
"""
