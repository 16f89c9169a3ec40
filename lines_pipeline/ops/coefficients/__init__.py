"""Learns coefficients of task vectors from data: their units, the merged model, the inputs, the optimiser's steps."""
