"""Cleaning rules for values and conditions: a function of a batch each; `beam_jobs.clean` knows them by their verbs."""
