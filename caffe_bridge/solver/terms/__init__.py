"""What is added to the gradients between clipping and the update, one file a term.

Order in an iteration: clip, 1 / iter_size, then the terms by their ``order`` (weight decay, group
lasso, nuclear norm, force), the update, and last the projections of the terms that have one.
"""

from caffe_bridge.solver.terms.base import TERMS, Term, gradient_terms

__all__ = ["TERMS", "Term", "gradient_terms"]
