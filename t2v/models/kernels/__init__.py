"""Kernels of the networks, on a CPU the fastest of this machine; elsewhere torch's own.

Each alternative gives what torch's own gives, up to a rounding that is stated beside it. Which one
runs is measured once a machine (`choice`), for each number format, with and without gradient.
`T2V_KERNELS=plain` keeps to what earlier versions ran (`plain`), to the bit.
"""
