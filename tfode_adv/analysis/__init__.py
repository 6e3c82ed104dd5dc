"""Trajectories, gradient audits, indicators of attack failure, detection: is this robustness real?"""
