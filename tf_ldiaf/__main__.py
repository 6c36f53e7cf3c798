"""python -m tf_ldiaf: which commands there are."""

print("""The commands of tf_ldiaf, in the order in which one needs them; each has --help.

  python -m tf_ldiaf.train      trains a model: learns the latent graph, fixes it, and trains with it
  python -m tf_ldiaf.evaluate   test ELBO and log-likelihood of a run, with standard errors
  python -m tf_ldiaf.export     writes a run's best weights as a SavedModel
  python -m tf_ldiaf.sample     samples, reconstructions and the latent graph of a SavedModel
  python -m tf_ldiaf.explore    opens a page in the browser on which one looks into a SavedModel""")
