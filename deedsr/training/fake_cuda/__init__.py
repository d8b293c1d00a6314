"""A CUDA device that only knows shapes, dtypes and devices: what a GPU would refuse, wait for and need, without one."""
