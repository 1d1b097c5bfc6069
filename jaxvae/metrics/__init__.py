"""What is measured of a trained model, always with its protocol.

    likelihood           per example: bounds, densities, active units, bits per dimension
    fid                  FID and KID under named protocols: protocols, features, frechet, sampling
    inception, squeezenet, reference    extractors of features, and what they are checked against
    lpips, perceptual    how different two images look; the same as an error to train on
    weights, torch_files    where weights are found, and how files of PyTorch are read
    ood                  data of another kind: scores, AUROC, histograms
    completion           images completed: best of K, mean error, diversity
    disentangle          whether single latents stand for single factors: MIG, two scores
    dci                  disentanglement, completeness, informativeness
    latent               what a posterior and the latents of a data set look like
    grid2d               distances of sets of points in the plane

Stands on data and models' contracts, not on training; imported by presets, experiments and users.
Import the file that you need: `from jaxvae.metrics import fid`.
"""
