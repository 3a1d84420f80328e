"""Small models made here, from docstrings: for experiments that need no download.

Tasks and mixture follow T5's pretraining (Raffel et al. 2020), at a thousandth of its size.
"""
