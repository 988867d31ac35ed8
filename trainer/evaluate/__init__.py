"""Accuracy of packaged models on labelled images, with confidence intervals and reports."""
