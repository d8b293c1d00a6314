"""DeeDSR (arXiv 2404.00661) on a frozen U-Net: degradation encoder, adapter, modulations, and its model folders."""
